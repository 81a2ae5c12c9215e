//! Real guests: a stock kernel under QEMU with its devices behind vhost-user sockets, and a way to run commands in it.
//!
//! ```no_run
//! # use sumeru_e2e::{Disk, Guest, Nic};
//! # use std::time::Duration;
//! # fn main() -> sumeru_e2e::Result<()> {
//! let guest = Guest::builder("g1").nic(Nic::new("/run/net.sock", "52:54:00:00:00:01")).disk(Disk::new("/run/blk.sock")).boot()?;
//! guest.check("ip address add 10.0.0.1/24 dev eth0 && ip link set eth0 up", Duration::from_secs(10))?;
//! guest.reboot()?;
//! # Ok(()) }
//! ```

mod accel;
mod agent;
mod base64;
mod device;
mod qmp;

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

pub use accel::{Accelerator, choose as choose_accelerator};
pub use device::{Disk, Nic, SocketRole};
pub use qmp::Qmp;

use crate::error::{Context, Error, Result};
use crate::initramfs::Initramfs;
use crate::peers::{Kernel, QemuVersion};
use crate::place::{self, SocketFolder};
use crate::process::{Lifetime, Output, Process};

use agent::Agent;

/// A boot takes 5 s under emulation on an idle core; busy machines get patience.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const CONTROL_LIMIT: Duration = Duration::from_secs(30);

/// What every guest is told. Waits and self-tests of a stock kernel that only cost time under emulation are off.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet mitigations=off rodata=off cryptomgr.notests audit=0 random.trust_cpu=on";
/// Under emulation the guest's clock is as steady as the host's; calibrating it against a busy host is not.
const TCG_ARGUMENTS: &str = "tsc=reliable no_timer_check";

/// A guest to be booted.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    version: QemuVersion,
    kernel: Kernel,
    initramfs: Option<Initramfs>,
    memory: u32,
    cpus: u16,
    nics: Vec<Nic>,
    disks: Vec<Disk>,
    extra: Vec<String>,
    affinity: Option<String>,
    lifetime: Lifetime,
    boot_limit: Duration,
    sockets: Option<PathBuf>,
}

impl Builder {
    /// Which QEMU; 7.2 if not said.
    #[must_use]
    pub fn qemu(mut self, version: QemuVersion) -> Self {
        self.version = version;
        self
    }

    /// Which kernel; 6.1 if not said. A given initramfs must be for the same kernel.
    #[must_use]
    pub fn kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// What the guest starts from; busybox, iperf3 and ethtool if not said.
    #[must_use]
    pub fn initramfs(mut self, initramfs: Initramfs) -> Self {
        self.initramfs = Some(initramfs);
        self
    }

    /// Memory in MiB; 512 if not said.
    #[must_use]
    pub fn memory(mut self, mebibytes: u32) -> Self {
        self.memory = mebibytes;
        self
    }

    /// Virtual processors; 1 if not said.
    #[must_use]
    pub fn cpus(mut self, count: u16) -> Self {
        self.cpus = count.max(1);
        self
    }

    /// Adds a network device: `eth0`, `eth1`, … in the order added.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds a disk: `/dev/vda`, `/dev/vdb`, … in the order added.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Adds an argument for QEMU.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.extra.push(argument.to_owned());
        self
    }

    /// Confines all of QEMU's threads to these processors, in the form of taskset(1): `0` or `0,2-3`.
    #[must_use]
    pub fn affinity(mut self, processors: &str) -> Self {
        self.affinity = Some(processors.to_owned());
        self
    }

    /// Whether the guest may run on after this process ([`Guest::keep`]).
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// How long a boot may take; 120 s if not said.
    #[must_use]
    pub fn boot_limit(mut self, limit: Duration) -> Self {
        self.boot_limit = limit;
        self
    }

    /// A folder, to be created, for the sockets of a guest that is to be kept. Folders with names of the framework's
    /// own are swept away once the process that made them has ended.
    #[must_use]
    pub fn sockets(mut self, folder: PathBuf) -> Self {
        self.sockets = Some(folder);
        self
    }

    /// Starts QEMU and waits until the guest's agent is ready.
    pub fn boot(self) -> Result<Guest> {
        let accelerator = accel::choose(self.version)?;
        let initramfs = self.initramfs.clone();
        let initramfs = initramfs
            .unwrap_or_else(|| {
                Initramfs::new(self.kernel)
                    .program("iperf3")
                    .program("ethtool")
            })
            .build()?;
        let folder = match &self.sockets {
            Some(path) => SocketFolder::at(path.clone())?,
            None => SocketFolder::create(&self.name)?,
        };
        let sockets = Sockets {
            agent: folder.socket("agent")?,
            qmp: folder.socket("qmp")?,
            console: folder.socket("console")?,
        };
        let logs = place::logs(&self.name)?;
        let console_log = logs.join("console.log");
        let listener = UnixListener::bind(&sockets.agent)
            .context(|| format!("listening on {}", sockets.agent.display()))?;
        let command = self.command(accelerator, &initramfs, &sockets, &console_log)?;
        let process = Process::spawn(
            &format!("QEMU of {}", self.name),
            command,
            &logs.join("qemu.log"),
            self.lifetime,
        )?;
        let agent = Agent::accept(&self.name, &listener, CONTROL_LIMIT, &|| {
            process.check_running()
        })?;
        let guest = Guest {
            name: self.name,
            version: self.version,
            accelerator,
            boot_limit: self.boot_limit,
            sockets,
            console_log,
            agent: Mutex::new(agent),
            process,
            folder,
        };
        guest.wait_ready(None)?;
        Ok(guest)
    }

    fn command(
        &self,
        accelerator: Accelerator,
        initramfs: &Path,
        sockets: &Sockets,
        console_log: &Path,
    ) -> Result<Command> {
        let qemu = self.version.command()?;
        let mut command = match &self.affinity {
            Some(processors) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(processors).arg(qemu);
                command
            }
            None => Command::new(qemu),
        };
        let Self { memory, cpus, .. } = self;
        let (accel, mut append) = match accelerator {
            Accelerator::Kvm => ("kvm", KERNEL_ARGUMENTS.to_owned()),
            Accelerator::Tcg => (
                "tcg,thread=multi",
                format!("{KERNEL_ARGUMENTS} {TCG_ARGUMENTS}"),
            ),
        };
        append += " net.ifnames=0";
        command.args([
            "-name",
            &self.name,
            "-no-user-config",
            "-nodefaults",
            "-display",
            "none",
        ]);
        command.args([
            "-accel",
            accel,
            "-cpu",
            "max",
            "-smp",
            &cpus.to_string(),
            "-m",
            &memory.to_string(),
        ]);
        command.args(["-machine", "q35,memory-backend=mem0", "-object"]);
        command.arg(format!(
            "memory-backend-memfd,id=mem0,size={memory}M,share=on"
        ));
        command
            .arg("-kernel")
            .arg(self.kernel.vmlinux()?)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &append]);
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", sockets.qmp.display()));
        command.arg("-chardev").arg(format!(
            "socket,id=console,path={},server=on,wait=off,logfile={},logappend=on",
            sockets.console.display(),
            console_log.display()
        ));
        command.args([
            "-serial",
            "chardev:console",
            "-device",
            "virtio-serial-pci,id=ports",
        ]);
        command.arg("-chardev").arg(format!(
            "socket,id=agent,path={},server=off",
            sockets.agent.display()
        ));
        command.args([
            "-device",
            "virtserialport,bus=ports.0,chardev=agent,name=sumeru.agent",
        ]);
        for (index, nic) in self.nics.iter().enumerate() {
            command.args(nic.arguments(index, self.version, accelerator));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            command.args(disk.arguments(index, self.version));
        }
        command.args(&self.extra);
        Ok(command)
    }
}

/// Boots guests at the same time, each in a thread of the running thread's name; the first error if any fails.
pub fn boot_all(builders: Vec<Builder>) -> Result<Vec<Guest>> {
    let current = std::thread::current();
    let boots: Vec<_> = builders
        .into_iter()
        .map(|builder| {
            // Logs are filed by the thread's name.
            std::thread::Builder::new()
                .name(current.name().unwrap_or("main").to_owned())
                .spawn(move || builder.boot())
                .context(|| "starting a thread".into())
        })
        .collect();
    let lost = || Error::Io {
        what: "booting a guest".into(),
        source: std::io::Error::other("the thread panicked"),
    };
    // Every thread is waited for before an error is returned: no guest boots on unseen.
    let guests: Vec<_> = boots
        .into_iter()
        .map(|boot| boot?.join().map_err(|_| lost())?)
        .collect();
    guests.into_iter().collect()
}

#[derive(Debug)]
struct Sockets {
    agent: PathBuf,
    qmp: PathBuf,
    console: PathBuf,
}

/// A command that runs in a guest's background.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job(u32);

/// A running guest; ended on drop.
#[derive(Debug)]
pub struct Guest {
    name: String,
    version: QemuVersion,
    accelerator: Accelerator,
    boot_limit: Duration,
    sockets: Sockets,
    console_log: PathBuf,
    agent: Mutex<Agent>,
    // Declared in the order of ending: the process first, then its sockets.
    process: Process,
    folder: SocketFolder,
}

impl Guest {
    /// Begins the description of a guest called `name` (short: it is part of socket paths).
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            version: QemuVersion::default(),
            kernel: Kernel::default(),
            initramfs: None,
            memory: 512,
            cpus: 1,
            nics: Vec::new(),
            disks: Vec::new(),
            extra: Vec::new(),
            affinity: None,
            lifetime: Lifetime::default(),
            boot_limit: BOOT_LIMIT,
            sockets: None,
        }
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The QEMU it runs under.
    pub fn version(&self) -> QemuVersion {
        self.version
    }

    /// How its processors are run.
    pub fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// The QEMU process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Everything the guest has written to its console so far.
    pub fn console_log(&self) -> &Path {
        &self.console_log
    }

    /// A socket with a shell on the guest's console (`socat - UNIX-CONNECT:PATH`).
    pub fn console_socket(&self) -> &Path {
        &self.sockets.console
    }

    /// Runs a shell script in the guest for at most `limit` (whole seconds, at least one). Commands of one guest run
    /// one after another; for what shall run beside them there is [`Self::spawn`].
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Exited`] if QEMU ends, [`Error::GuestPanic`]; a status other than 0 is none.
    pub fn run(&self, script: &str, limit: Duration) -> Result<Output> {
        self.agent().run(script, limit, &|| self.healthy())
    }

    /// Runs a shell script that must succeed; its standard output.
    pub fn check(&self, script: &str, limit: Duration) -> Result<String> {
        self.run(script, limit)?
            .success(&format!("{}: {script}", self.name))
    }

    /// Starts a shell script in the guest's background.
    pub fn spawn(&self, script: &str) -> Result<Job> {
        let job = place::serial();
        let folder = format!("/run/job{job}");
        let script = base64::encode(script.as_bytes());
        // The status appears under its name only when it is complete.
        let start = format!(
            "mkdir -p {folder} && echo {script} | base64 -d >{folder}/script && \
             setsid sh -c 'sh {folder}/script >{folder}/out 2>{folder}/err; echo $? >{folder}/.status; mv {folder}/.status {folder}/status' \
             </dev/null >/dev/null 2>&1 & echo $! >/run/job{job}.pid"
        );
        self.check(&start, CONTROL_LIMIT)?;
        Ok(Job(job))
    }

    /// Whether a background script has ended.
    pub fn finished(&self, job: Job) -> Result<bool> {
        Ok(self
            .run(&format!("test -e /run/job{}/status", job.0), CONTROL_LIMIT)?
            .status
            == 0)
    }

    /// Waits for the end of a background script.
    pub fn wait(&self, job: Job, limit: Duration) -> Result<Output> {
        let folder = format!("/run/job{}", job.0);
        let seconds = limit.as_secs().max(1);
        // The waiting is done in the guest: asking again and again would cost an emulated processor its time.
        let wait = format!(
            "i=0; while [ ! -e {folder}/status ]; do i=$((i+1)); [ $i -lt {seconds}0 ] || exit 1; usleep 100000; done"
        );
        if self.run(&wait, limit + CONTROL_LIMIT)?.status != 0 {
            let what = format!("the end of background job {} of guest {}", job.0, self.name);
            let context = self
                .run(
                    &format!("tail -n 20 {folder}/out {folder}/err"),
                    CONTROL_LIMIT,
                )?
                .stdout;
            return Err(Error::Timeout {
                what,
                limit,
                context: format!("; its output ends:\n{context}"),
            });
        }
        self.run(
            &format!("cat {folder}/out; cat {folder}/err >&2; exit $(cat {folder}/status)"),
            CONTROL_LIMIT,
        )
    }

    /// Reboots the guest from inside and waits until it is ready again. Background jobs and `/run` are gone then.
    pub fn reboot(&self) -> Result<()> {
        let before = self.boot_id()?;
        // After the answer has been sent; -f because no init system is there to be asked.
        self.check(
            "sync; (usleep 300000; reboot -f) </dev/null >/dev/null 2>&1 &",
            CONTROL_LIMIT,
        )?;
        self.wait_ready(Some(&before))
    }

    /// Resets the guest as its reset button would, without telling it, and waits until it is ready again.
    pub fn reset(&self) -> Result<()> {
        let before = self.boot_id()?;
        self.qmp()?.execute("system_reset", &Value::Null)?;
        self.wait_ready(Some(&before))
    }

    /// The identity of the current boot, another one after each reboot.
    pub fn boot_id(&self) -> Result<String> {
        Ok(self
            .check("cat /proc/sys/kernel/random/boot_id", CONTROL_LIMIT)?
            .trim()
            .to_owned())
    }

    /// A control connection to its QEMU; one at a time.
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.name, &self.sockets.qmp)
    }

    /// Lets the guest run on after this process has ended, if it was booted with [`Lifetime::Free`].
    pub fn keep(self) {
        self.process.keep();
        self.folder.keep();
    }

    fn agent(&self) -> MutexGuard<'_, Agent> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_ready(&self, before: Option<&str>) -> Result<()> {
        let outcome = loop {
            match self.agent().ready(self.boot_limit, &|| self.healthy()) {
                Ok(boot) if Some(boot.as_str()) == before => {}
                other => break other,
            }
        };
        match outcome {
            Err(Error::Timeout { what, limit, .. }) => {
                let context = format!(
                    "; the console ends:\n{}",
                    place::tail(&self.console_log, 30)
                );
                Err(Error::Timeout {
                    what,
                    limit,
                    context,
                })
            }
            other => other.map(|_| ()),
        }
    }

    /// # Errors
    /// [`Error::Exited`] or [`Error::GuestPanic`] if waiting for the guest is pointless.
    fn healthy(&self) -> Result<()> {
        self.process.check_running()?;
        let tail = place::tail(&self.console_log, 60);
        if tail.contains("Kernel panic") {
            return Err(Error::GuestPanic {
                guest: self.name.clone(),
                tail,
            });
        }
        Ok(())
    }
}
