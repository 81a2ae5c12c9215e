//! A real testpmd (Debian package `dpdk-dev`, 22.11) that reads commands. It runs on a null device, which
//! supports no rules: "Bad arguments" and "Command not found" are syntax errors, every other answer means
//! that the line was understood.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PROMPT: &str = "testpmd> ";

/// What testpmd says to these lines and to `quit`.
fn converse(lines: &[&str]) -> String {
    let mut testpmd = Command::new("dpdk-testpmd")
        // Two logical cores, as testpmd needs, on any machine; no huge pages, no devices.
        .args([
            "--lcores",
            "0@0,1@0",
            "--no-huge",
            "-m",
            "256",
            "--no-pci",
            "--no-shconf",
        ])
        .args(["--vdev", "net_null0", "--", "-i", "--total-num-mbufs=2048"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("dpdk-testpmd is needed; install it: apt-get install --no-install-recommends dpdk");
    let mut input = testpmd.stdin.take().expect("piped");
    let mut output = testpmd.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        output
            .read_to_end(&mut text)
            .map(|_| String::from_utf8_lossy(&text).replace('\r', ""))
    });
    let script = lines
        .iter()
        .map(|line| format!("{line}\n"))
        .collect::<String>();
    input
        .write_all(script.as_bytes())
        .expect("testpmd reads its commands");
    input
        .write_all(b"quit\n")
        .expect("testpmd reads its commands");
    let started = Instant::now();
    while testpmd.try_wait().expect("testpmd is our child").is_none() {
        if started.elapsed() > Duration::from_secs(120) {
            testpmd.kill().expect("testpmd is our child");
            panic!("testpmd did not end within two minutes");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(input);
    reader
        .join()
        .expect("the reader ends")
        .expect("testpmd's output")
}

/// Whether testpmd takes each line.
pub fn ask_testpmd(lines: &[&str]) -> Vec<bool> {
    let text = converse(lines);
    let answers: Vec<&str> = text.split(PROMPT).skip(1).collect();
    assert_eq!(
        answers.len(),
        lines.len() + 1,
        "an answer to each line and to quit:\n{text}"
    );
    let taken = lines.iter().zip(&answers).map(|(line, answer)| {
        let (echo, answer) = answer.split_once('\n').expect("testpmd repeats the line");
        assert_eq!(echo, *line, "testpmd repeats the line");
        !answer.contains("Bad arguments") && !answer.contains("Command not found")
    });
    taken.collect()
}

/// The words that testpmd offers behind each beginning, as it shows them for `?`.
#[allow(dead_code, reason = "each test program uses a part of this module")]
pub fn offers(beginnings: &[String]) -> Vec<Vec<String>> {
    let lines: Vec<String> = beginnings.iter().map(|text| format!("{text} ?")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let text = converse(&lines);
    let answers: Vec<&str> = text.split("Bad arguments").collect();
    assert_eq!(
        answers.len(),
        lines.len() + 1,
        "each beginning is incomplete, and so an error:\n{text}"
    );
    let words = |answer: &str| {
        answer
            .lines()
            .filter_map(|line| line.strip_prefix(' ')?.split_once(" ["))
            .map(|(word, _)| word.to_owned())
            .collect()
    };
    answers
        .iter()
        .take(lines.len())
        .map(|answer| words(answer))
        .collect()
}
