//! Addresses as a kubeconfig has them: read as Go's library reads them, and told without what somebody logs in with.

use http::{HeaderValue, Uri};

use super::certificate;

/// A server's, with its scheme and without userinfo. One that names no scheme is a host, and perhaps a port (`kubectl proxy`): it is
/// asked over TLS where the kubeconfig says anything of TLS.
///
/// # Errors
/// A sentence: nobody can be asked there.
pub(super) fn of_server(text: &str, is_tls: bool) -> Result<String, String> {
    let told = |why: &str| format!("the server {:?} {why}", shown(text));
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None if text.split_once('/').is_some_and(|(_, path)| !path.is_empty()) => {
            return Err(told("is neither a URL nor a host and its port"));
        }
        None => (if is_tls { "https" } else { "http" }.to_owned(), text),
    };
    if scheme != "http" && scheme != "https" {
        return Err(told("is neither http:// nor https://"));
    }
    let (_, place, path) = parts(rest);
    let whole = format!("{scheme}://{place}{path}");
    check(&whole, place).map_err(|why| told(&why))?;
    Ok(whole)
}

/// A proxy's, and what it is told of who asks.
///
/// # Errors
/// A sentence: it is none that tunnels are asked of.
pub(super) fn of_proxy(text: &str) -> Result<(Uri, Option<HeaderValue>), String> {
    let told = |why: &str| format!("the proxy-url {:?} {why}", shown(text));
    let scheme = text.split_once("://").filter(|(scheme, _)| scheme.eq_ignore_ascii_case("http"));
    let (_, rest) = scheme.ok_or_else(|| told("is not http://, and no other proxy is spoken with"))?;
    let (userinfo, place, path) = parts(rest);
    let uri = check(&format!("http://{place}{path}"), place).map_err(|why| told(&why))?;
    let authorization = userinfo.map(|userinfo| {
        let mut value = HeaderValue::try_from(format!("Basic {}", certificate::base64(&unescaped(userinfo))));
        value.iter_mut().for_each(|value| value.set_sensitive(true));
        value.map_err(|_| told("has a name or a password that cannot be sent"))
    });
    Ok((uri, authorization.transpose()?))
}

/// Bytes that `%XX` stands for; what is no such thing stays as it is.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let escaped = digit(0).zip(digit(1)).filter(|_| *first == b'%');
        let byte = escaped.and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
        bytes.push(byte.unwrap_or(*first));
    }
    bytes
}

/// An address for people: whatever may be a name and a password is cut off.
pub(super) fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}

/// Userinfo, host with port, and what comes after them.
fn parts(rest: &str) -> (Option<&str>, &str, &str) {
    let (authority, path) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    match authority.rsplit_once('@') {
        Some((userinfo, place)) => (Some(userinfo), place, path),
        None => (None, authority, path),
    }
}

/// Whether a whole address has a host, and a port that is one.
fn check(whole: &str, place: &str) -> Result<Uri, String> {
    if place.is_empty() || place.starts_with(':') {
        return Err("names no host".to_owned());
    }
    let uri: Uri = whole.parse().map_err(|e| format!("is no address: {e}"))?;
    let port = place.strip_prefix(uri.host().unwrap_or_default()).and_then(|rest| rest.strip_prefix(':'));
    match port {
        Some(port) if !port.is_empty() && port.parse::<u16>().is_err() => Err("has a port that is none".to_owned()),
        _ => Ok(uri),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_as_go_does() {
        for (text, plain, tls) in [
            ("127.0.0.1:8001", "http://127.0.0.1:8001", "https://127.0.0.1:8001"),
            ("localhost:8001", "http://localhost:8001", "https://localhost:8001"),
            ("localhost", "http://localhost", "https://localhost"),
            ("host/", "http://host/", "https://host/"),
            ("[::1]:6443", "http://[::1]:6443", "https://[::1]:6443"),
            ("a:b@host:1", "http://host:1", "https://host:1"),
            ("https://host", "https://host", "https://host"),
            ("HTTP://a:b@[::1]:1/k8s/c", "http://[::1]:1/k8s/c", "http://[::1]:1/k8s/c"),
            ("https://host:/", "https://host:/", "https://host:/"),
        ] {
            assert_eq!(of_server(text, false).as_deref(), Ok(plain));
            assert_eq!(of_server(text, true).as_deref(), Ok(tls));
        }
    }

    #[test]
    fn a_proxy_is_told_who_asks() {
        let (uri, authorization) = of_proxy("http://u:p%40s%zz@host:3128/").unwrap();
        // `u:p@s%zz`
        assert_eq!(
            (uri.to_string().as_str(), authorization.unwrap().to_str().unwrap()),
            ("http://host:3128/", "Basic dTpwQHMleno=")
        );
        assert_eq!(of_proxy("http://host:3128").unwrap().1, None);
        for text in [
            "socks5://u:hush@h",
            "https://u:hush@h",
            "u:hush@h:1",
            "h:1",
            "http://u:hush@",
            "http://u:hush@h:99999",
            "/x",
        ] {
            let why = of_proxy(text).unwrap_err();
            assert!(why.contains("proxy-url") && !why.contains("hush"), "{why}");
        }
    }

    #[test]
    fn what_is_no_server_is_told_without_secrets() {
        for (text, told) in [
            ("", r#""" names no host"#),
            ("/x", r#""/x" is neither a URL nor a host and its port"#),
            ("host:1/x", r#""host:1/x" is neither a URL nor a host and its port"#),
            ("h:99999", r#""h:99999" has a port that is none"#),
            ("https://h:x", r#""https://h:x" is no address: invalid port"#),
            ("https:///x", r#""https:///x" names no host"#),
            ("https://:443", r#""https://:443" names no host"#),
            ("https://a:s@", r#""https://" names no host"#),
            ("ftp://a:s@h", r#""ftp://h" is neither http:// nor https://"#),
            ("https://a:s@h:99999", r#""https://h:99999" has a port that is none"#),
        ] {
            let why = of_server(text, true).unwrap_err();
            assert!(
                why == format!("the server {told}") || why.contains("has a port") || why.contains("is no address"),
                "{why}"
            );
            assert!(!why.contains("a:s"), "{why}");
        }
        assert_eq!(shown("https://a:s/@h"), "https://h");
        assert!(!of_server("https://a:s/@h", true).unwrap_err().contains("a:s"));
    }
}
