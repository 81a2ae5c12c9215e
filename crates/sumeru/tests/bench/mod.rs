//! A daemon of the real binary in a folder of its own, and commands against it.
#![allow(dead_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const BIN: &str = env!("CARGO_BIN_EXE_sumeru");

/// A folder and a daemon in it, both gone with the test.
pub struct Bench {
    pub folder: PathBuf,
    pub daemon: Option<Child>,
}

impl Bench {
    pub fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sumeru-cli-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self {
            folder,
            daemon: None,
        }
    }

    pub fn started(name: &str, config: Option<&str>) -> Self {
        let mut bench = Self::new(name);
        if let Some(config) = config {
            fs::write(bench.path("node.toml"), config).unwrap();
        }
        bench.start(config.is_some());
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn spawn(&self, config: bool) -> Child {
        let mut command = Command::new(BIN);
        command
            .args(["daemon", "--dry-run", "--rpc"])
            .arg(self.path("rpc.sock"))
            .arg("--store")
            .arg(self.path("s.db"));
        if config {
            command.arg("--config").arg(self.path("node.toml"));
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .unwrap();
        command.stderr(log).spawn().unwrap()
    }

    pub fn start(&mut self, config: bool) {
        self.daemon = Some(self.spawn(config));
        let end = Instant::now() + Duration::from_secs(20);
        while self.run(&["node", "show"]).status.code() != Some(0) {
            assert!(Instant::now() < end, "no daemon: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Ends the daemon with a signal and gives its exit code.
    pub fn signal(&mut self, signal: &str) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        let done = Command::new("kill")
            .args([signal, &daemon.id().to_string()])
            .status()
            .unwrap();
        assert!(done.success());
        daemon.wait().unwrap().code()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(BIN);
        command
            .env("SUMERU_RPC", self.path("rpc.sock"))
            .args(args)
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Standard output of a command that succeeds.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        assert_eq!(output.status.code(), Some(0), "{args:?}: {out}{err}");
        out
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(&[&["--json"], args].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
    }

    /// Exit code and standard error of a command that fails.
    pub fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
