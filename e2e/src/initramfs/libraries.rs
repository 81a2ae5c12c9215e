//! The shared libraries a program needs, as the dynamic loader finds them (ldd(1)).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::process;

/// The absolute paths of the libraries of `program` and of its loader; none for a static one.
pub(super) fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    command.arg(program);
    let line = process::command_line(&command);
    let output = process::run(&mut command)?;
    // ldd ends with 1 for a static program and says so.
    if output.status == 1 && output.stderr.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    Ok(parse(&output.success(&line)?))
}

/// Lines are `name => /path (address)`, `/path (address)` or `name (address)`, the last for what the kernel provides.
fn parse(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_both_forms() {
        let text = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x7f00)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f01)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libm.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ]
        .map(PathBuf::from);
        assert_eq!(parse(text), expected);
    }
}
