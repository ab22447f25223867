//! What a person should know although nothing fails, on standard error, where runtimes keep what plugins say.

use std::io::{self, Write};

/// One line for the runtime's log.
pub fn warn(line: &str) {
    let _ = writeln!(io::stderr(), "plexus: warning: {line}"); // nobody to tell
}
