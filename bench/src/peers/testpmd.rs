//! DPDK's testpmd with two virtio-user ports, as the driver side of a switch's two vhost-user ports.
//!
//! Its forwarding thread busy-polls one core; commands go in and answers come out over pipes.

use crate::process::Process;
use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const PROMPT: &str = "testpmd> ";
/// How long it may take to start, and how often that is tried.
const START: Duration = Duration::from_secs(20);
const ATTEMPTS: u32 = 3;

/// Counters of all ports since the last clear, as testpmd has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortTotals {
    /// Packets received.
    pub rx: u64,
    /// Packets sent.
    pub tx: u64,
}

/// A running testpmd.
pub struct Testpmd {
    process: Process,
    stdin: ChildStdin,
    output: Arc<Mutex<String>>,
    read: usize,
}

impl Testpmd {
    /// Connects to the first two sockets and waits for the prompt. `virtio_options` is appended to both devices, with its comma.
    ///
    /// # Errors
    /// If it is not installed or does not come up, e.g. for want of huge pages.
    pub fn start(
        sockets: &[PathBuf],
        core: usize,
        virtio_options: &str,
        log: &Path,
    ) -> Result<Self> {
        // It now and then hangs while it starts, before it has said anything.
        let mut attempt = 1;
        loop {
            match Self::try_start(sockets, core, virtio_options, log) {
                Err(error) if attempt < ATTEMPTS => eprintln!("{error:#}; started again"),
                answer => return answer,
            }
            attempt += 1;
        }
    }

    fn try_start(
        sockets: &[PathBuf],
        core: usize,
        virtio_options: &str,
        log: &Path,
    ) -> Result<Self> {
        let testpmd = super::find("dpdk-testpmd")?;
        let vdev = |index: usize| {
            format!(
                "net_virtio_user{index},path={},queue_size=1024{virtio_options}",
                sockets[index].display()
            )
        };
        let arguments: Vec<String> = [
            "-oL",
            &testpmd.to_string_lossy(),
            "--lcores",
            &format!("0@{core},1@{core}"),
            "--in-memory",
            "--single-file-segments",
            "--no-pci",
            "--no-telemetry",
            "--file-prefix",
            &format!("sumeru{}", std::process::id()),
            "-m",
            "512",
            "--vdev",
            &vdev(0),
            "--vdev",
            &vdev(1),
            "--",
            "-i",
            "--nb-cores=1",
            "--txd=1024",
            "--rxd=1024",
            "--total-num-mbufs=16384",
        ]
        .map(str::to_owned)
        .to_vec();
        // stdbuf: answers must not sit in a buffer of the C library while we wait for them.
        let (process, stdin, mut stdout) =
            Process::start_piped(Path::new("stdbuf"), &arguments, None, log)?;
        let output = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&output);
        std::thread::Builder::new()
            .name("testpmd-output".into())
            .spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(len @ 1..) = stdout.read(&mut chunk) {
                    sink.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push_str(&String::from_utf8_lossy(&chunk[..len]));
                }
            })?;
        let mut testpmd = Self {
            process,
            stdin,
            output,
            read: 0,
        };
        testpmd.answer("start", START)?;
        Ok(testpmd)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Gives a command and returns what it printed.
    ///
    /// # Errors
    /// If it ended, or did not answer within ten seconds.
    pub fn command(&mut self, command: &str) -> Result<String> {
        writeln!(self.stdin, "{command}")
            .with_context(|| format!("give testpmd the command {command}"))?;
        let answer = self.answer(command, Duration::from_secs(10))?;
        for complaint in ["Bad arguments", "Command not found", "Ambiguous command"] {
            if answer.contains(complaint) {
                bail!("testpmd: {command}: {complaint}");
            }
        }
        Ok(answer)
    }

    /// The ports' counters since the last clear.
    ///
    /// # Errors
    /// As [`Testpmd::command`]; also if the text is not as expected.
    pub fn totals(&mut self) -> Result<PortTotals> {
        parse_totals(&self.command("show port stats all")?)
    }

    fn answer(&mut self, command: &str, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            {
                let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
                let fresh = &output[self.read..];
                if let Some(at) = fresh.find(PROMPT) {
                    let answer = fresh[..at].to_owned();
                    self.read += at + PROMPT.len();
                    return Ok(answer);
                }
                if Instant::now() > deadline {
                    bail!(
                        "testpmd: no prompt after {command} within {patience:?}; last output: {}",
                        fresh.trim()
                    );
                }
            }
            self.process.check()?;
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // Best effort: a testpmd that is gone or hangs is killed with its process.
        if writeln!(self.stdin, "quit").is_ok() {
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.process.check().is_ok() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn parse_totals(text: &str) -> Result<PortTotals> {
    let sum = |key: &str| -> Result<u64> {
        let mut sum = 0;
        let mut ports = 0;
        for line in text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(key))
        {
            let number = line
                .trim_start_matches(':')
                .split_whitespace()
                .next()
                .unwrap_or_default();
            sum += number
                .parse::<u64>()
                .with_context(|| format!("testpmd's {key} {line:?}"))?;
            ports += 1;
        }
        if ports != 2 {
            bail!("testpmd shows {key} of {ports} ports, expected 2: {text}");
        }
        Ok(sum)
    };
    Ok(PortTotals {
        rx: sum("RX-packets")?,
        tx: sum("TX-packets")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_a_real_answer() {
        let text = "
  ######################## NIC statistics for port 0  ########################
  RX-packets: 5901768    RX-missed: 0          RX-bytes:  354106080
  RX-errors: 0
  RX-nombuf:  0         
  TX-packets: 5902272    TX-errors: 0          TX-bytes:  354136320

  Throughput (since last show)
  Rx-pps:      2950361          Rx-bps:   1416173400
  Tx-pps:      2950361          Tx-bps:   1416173400
  ############################################################################

  ######################## NIC statistics for port 1  ########################
  RX-packets: 1    RX-missed: 0          RX-bytes:  60
  RX-errors: 0
  RX-nombuf:  0         
  TX-packets: 2    TX-errors: 0          TX-bytes:  120
";
        assert_eq!(
            parse_totals(text).unwrap(),
            PortTotals {
                rx: 5_901_769,
                tx: 5_902_274
            }
        );
        assert!(parse_totals("RX-packets: 1 TX-packets: 2").is_err());
    }
}
