//! Every checked-in input of every fuzz target through its body, and every input that ever crashed one: what was found stays found.

use std::path::Path;
use std::{fs, io};

/// Runs the inputs of `target`; answers how many there were.
fn replay(target: &str, run: fn(&[u8])) -> io::Result<usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for kind in ["corpus", "artifacts"] {
        let folder = root.join(kind).join(target);
        // Only a target that has crashed has artifacts.
        if kind == "artifacts" && !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            // The name of the input, should it be the last one.
            println!("{}", path.display());
            run(&fs::read(path)?);
            count += 1;
        }
    }
    Ok(count)
}

macro_rules! targets {
    ($($target:ident)+) => {$(
        #[test]
        fn $target() -> io::Result<()> {
            let count = replay(stringify!($target), sumeru_fuzz::$target::run)?;
            assert!(count > 0, "the checked-in inputs are gone");
            Ok(())
        }
    )+};
}

targets! { block flow packet packet_edit ring rpc translate vhost_user virtqueue }
