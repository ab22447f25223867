//! The names of the protocol and their rules: container id, network name, interface name. Codes and texts are those of the
//! Go library. Each name is part of a path or of a kernel object's name later, so nothing else checks them again.

use super::error::{CniError, Code};

/// The longest interface name, in bytes: the kernel's IFNAMSIZ less its end (include/uapi/linux/if.h).
pub const IFNAME_BYTES_MAX: usize = 15;

/// The longest container id, in bytes: it names a file, so NAME_MAX (255) less room for what is written around it. The
/// Go library has no limit and fails later, with a half-made attachment.
pub const CONTAINER_ID_BYTES_MAX: usize = 240;

/// The longest network name, in bytes: it names a directory (NAME_MAX).
pub const NETWORK_NAME_BYTES_MAX: usize = 255;

/// Checks a network's name.
///
/// # Errors
/// Code 7.
pub fn validate_network_name(name: &str) -> Result<(), CniError> {
    if name.is_empty() {
        return Err(CniError::new(Code::InvalidConfig, "missing network name"));
    }
    if name.len() > NETWORK_NAME_BYTES_MAX {
        return Err(CniError::new(Code::InvalidConfig, "network name is too long")
            .with_details(format!("network name should be at most {NETWORK_NAME_BYTES_MAX} bytes")));
    }
    if !is_plain(name) {
        return Err(CniError::new(Code::InvalidConfig, "invalid characters found in network name").with_details(name));
    }
    Ok(())
}

/// Checks a container id.
///
/// # Errors
/// Code 3 when it is missing, else 4.
pub fn validate_container_id(id: &str) -> Result<(), CniError> {
    if id.is_empty() {
        return Err(CniError::new(Code::UnknownContainer, "missing containerID"));
    }
    if id.len() > CONTAINER_ID_BYTES_MAX {
        return Err(CniError::new(Code::InvalidEnvironment, "containerID is too long")
            .with_details(format!("containerID should be at most {CONTAINER_ID_BYTES_MAX} bytes")));
    }
    if !is_plain(id) {
        return Err(CniError::new(Code::InvalidEnvironment, "invalid characters in containerID").with_details(id));
    }
    Ok(())
}

/// Checks the name of an interface that is to be made: [`validate_taken_ifname`], and nothing that would steer the terminal of whoever
/// looks at the pod, which the kernel lets pass.
///
/// # Errors
/// Code 4.
pub fn validate_ifname(name: &str) -> Result<(), CniError> {
    validate_taken_ifname(name)?;
    if name.contains(char::is_control) {
        return Err(CniError::new(Code::InvalidEnvironment, "interface name contains control characters"));
    }
    Ok(())
}

/// Checks the name of an interface that others may have made, as the kernel would (net/core/dev.c, dev_valid_name).
///
/// # Errors
/// Code 4.
pub fn validate_taken_ifname(name: &str) -> Result<(), CniError> {
    let refused = |msg: &str| Err(CniError::new(Code::InvalidEnvironment, msg));
    if name.is_empty() {
        return refused("interface name is empty");
    }
    if name.len() > IFNAME_BYTES_MAX {
        return refused("interface name is too long")
            .map_err(|error| error.with_details("interface name should be less than 16 characters"));
    }
    if name == "." || name == ".." {
        return refused("interface name is . or ..");
    }
    if name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace()) {
        return refused("interface name contains / or : or whitespace characters");
    }
    if name.contains('\0') {
        return refused("interface name contains a NUL");
    }
    // The kernel puts a number in the place of %d (dev_alloc_name): nobody would know what the link is called.
    if name.contains('%') {
        return refused("interface name contains a %");
    }
    Ok(())
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_names() {
        for good in ["a", "9-_.", "net.1"] {
            assert_eq!(validate_network_name(good), Ok(()));
        }
        let empty = validate_network_name("").unwrap_err();
        assert_eq!((empty.code, empty.to_string().as_str()), (Code::InvalidConfig, "missing network name"));
        for bad in ["-a", "_a", ".", "..", "a/b", "a b", "a\n", "é", "a\0"] {
            let error = validate_network_name(bad).unwrap_err();
            assert_eq!(
                (error.code, error.msg.as_str()),
                (Code::InvalidConfig, "invalid characters found in network name")
            );
            assert_eq!(error.details, bad);
        }
        assert_eq!(validate_network_name(&"a".repeat(256)).unwrap_err().msg, "network name is too long");
    }

    #[test]
    fn container_ids() {
        assert_eq!(validate_container_id(&"a".repeat(64)), Ok(()));
        let empty = validate_container_id("").unwrap_err();
        assert_eq!((empty.code, empty.msg.as_str()), (Code::UnknownContainer, "missing containerID"));
        let bad = validate_container_id("../x").unwrap_err();
        assert_eq!(
            (bad.code, bad.to_string().as_str()),
            (Code::InvalidEnvironment, "invalid characters in containerID; ../x")
        );
        assert_eq!(validate_container_id(&"a".repeat(241)).unwrap_err().code, Code::InvalidEnvironment);
    }

    #[test]
    fn interface_names() {
        for good in ["e", "eth0.100", "fifteen-bytes-0", "a..b"] {
            assert_eq!(validate_ifname(good), Ok(()));
        }
        let cases = [
            ("", "interface name is empty"),
            ("sixteen-bytes-00", "interface name is too long; interface name should be less than 16 characters"),
            (".", "interface name is . or .."),
            ("..", "interface name is . or .."),
            ("a/b", "interface name contains / or : or whitespace characters"),
            ("a:b", "interface name contains / or : or whitespace characters"),
            ("a b", "interface name contains / or : or whitespace characters"),
            ("a\u{a0}b", "interface name contains / or : or whitespace characters"),
            ("a\u{2003}b", "interface name contains / or : or whitespace characters"),
            ("a\0b", "interface name contains a NUL"),
            ("a\u{1b}[2J", "interface name contains control characters"),
            ("a\u{7f}", "interface name contains control characters"),
            ("a\u{9b}2J", "interface name contains control characters"),
        ];
        for (name, expected) in cases {
            let error = validate_ifname(name).unwrap_err();
            assert_eq!((error.code, error.to_string().as_str()), (Code::InvalidEnvironment, expected), "{name:?}");
        }
        assert_eq!(validate_taken_ifname("a\u{1b}[2J"), Ok(()), "Multus may have made it");
    }
}
