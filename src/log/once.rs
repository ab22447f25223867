//! What is said once after each start of the node, and not by every call: a small file remembers it. It does not know what is
//! said.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

/// The file, in the state directory: a line with the boot's id, then one for each text.
const FILE: &str = "said";
/// In bytes: some hundred texts. What comes then is said again from the beginning.
const BYTES_MAX: u64 = 8 << 10;
/// In bytes: a mark and its newline.
const MARK_BYTES: u64 = 17;

/// Whether nobody said `text` since the node started; from now on somebody has. Where that cannot be remembered, always.
pub fn is_first(state_dir: &Path, boot_id: &str, text: &str) -> bool {
    is_new(state_dir, boot_id, text).unwrap_or(true)
}

fn is_new(state_dir: &Path, boot_id: &str, text: &str) -> io::Result<bool> {
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(flags.bits());
    let mut file = options.open(state_dir.join(FILE))?;
    if !file.metadata()?.is_file() {
        return Ok(true);
    }
    let mut known = Vec::new();
    (&file).take(BYTES_MAX).read_to_end(&mut known)?;
    let known = String::from_utf8_lossy(&known);
    let mark = mark_of(text);
    let is_of_this_boot = known.lines().next() == Some(boot_id);
    if is_of_this_boot && known.lines().skip(1).any(|line| line == mark) {
        return Ok(false);
    }
    let line = format!("{mark}\n");
    if is_of_this_boot && file.metadata()?.len() + MARK_BYTES < BYTES_MAX {
        file.write_all(line.as_bytes())?;
        return Ok(true);
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{boot_id}\n{line}").as_bytes())?;
    Ok(true)
}

/// FNV-1a in 64 bits: two texts of a node with one mark are one warning less.
fn mark_of(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn once_a_boot_and_within_bounds() {
        let dir = std::env::temp_dir().join(format!("plexus-said-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        assert!(is_first(&dir, "boot-1", "a"));
        assert!(!is_first(&dir, "boot-1", "a"));
        assert!(is_first(&dir, "boot-1", "b"));
        assert!(is_first(&dir, "boot-2", "a"), "after a start of the node");
        assert!(!is_first(&dir, "boot-2", "a"));
        for number in 0..2000 {
            is_first(&dir, "boot-2", &number.to_string());
        }
        assert!(fs::metadata(dir.join(FILE)).unwrap().len() <= BYTES_MAX);
        assert!(!is_first(&dir, "boot-2", "1999"));
        fs::remove_file(dir.join(FILE)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.join(FILE)).unwrap();
        assert!(is_first(&dir, "boot-2", "a") && is_first(&dir, "boot-2", "a"), "it cannot be remembered");
        fs::remove_dir_all(&dir).unwrap();
        assert!(is_first(Path::new("/proc/none"), "boot-2", "a"));
    }
}
