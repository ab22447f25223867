//! One call by the runtime: environment and standard input, checked in the Go library's order and with its texts. Knows
//! the protocol; what the configuration means is `conf`'s and the caller's matter.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::error::{CniError, Code};
use super::gojson;
use super::names;
use super::version::{self, SUPPORTED, Version};

/// The largest configuration read from standard input, in bytes. A GC list takes 110 bytes an attachment: this is the
/// list of more pods than a node's address pool holds.
pub const STDIN_BYTES_MAX: u64 = 8 << 20;

/// The most directories taken from CNI_PATH.
pub const PATH_DIRS_MAX: usize = 128;

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Attach.
    Add,
    /// Detach.
    Del,
    /// Compare with what was attached.
    Check,
    /// Detach all but the valid attachments.
    Gc,
    /// Say whether ADD could be served.
    Status,
    /// List the versions.
    Version,
}

impl Command {
    /// The command of this name, in capitals.
    pub fn parse(name: &str) -> Option<Command> {
        [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status, Command::Version]
            .into_iter()
            .find(|command| command.as_str() == name)
    }

    /// Its name in CNI_COMMAND.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Gc => "GC",
            Command::Status => "STATUS",
            Command::Version => "VERSION",
        }
    }
}

/// What a process was started for.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// CNI_COMMAND is not set: a person ran the program. The about text and `version::supported_line` go to standard
    /// error, exit status 0.
    NoCommand,
    /// `version::reply` goes to standard output. Nothing was read.
    Version,
    /// A command with its checked parameters.
    Call(Box<Request>),
}

/// The parameters of one call. Names are checked for the commands that need them, and as given (perhaps empty) for others.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The command: never VERSION.
    pub command: Command,
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS; `None` where it is empty or missing (DEL of a sandbox whose namespace is gone).
    pub netns: Option<PathBuf>,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS, unparsed; bytes that are not UTF-8 became U+FFFD.
    pub args: String,
    /// CNI_PATH, without empty entries: those would mean the working directory.
    pub path: Vec<PathBuf>,
    /// CNI_NETNS_OVERRIDE: the caller vouches that CNI_NETNS may be the plugin's own namespace.
    pub netns_override: bool,
    /// Standard input as it was read: what a delegate gets when nothing is injected.
    pub stdin: Vec<u8>,
    /// Standard input, parsed.
    pub config: Map<String, Value>,
    /// The configuration's name, checked.
    pub network: String,
    /// The configuration's version: the answer's version.
    pub version: Version,
}

impl Request {
    /// Reads a call for a program that speaks every version.
    ///
    /// # Errors
    /// As `from_env_for`.
    pub fn from_env(env: impl Iterator<Item = (OsString, OsString)>, stdin: impl Read) -> Result<Invocation, CniError> {
        Request::from_env_for(&SUPPORTED, env, stdin)
    }

    /// Reads a call for a plugin that speaks the versions in `supported`.
    ///
    /// # Errors
    /// In this order: an invalid id or interface name, missing variables (4), an unreadable standard input (5), a
    /// configuration that does not parse (6) or has no valid name (7), an unknown command (4), a version that does not
    /// know the command or is not supported (1).
    pub fn from_env_for(
        supported: &[Version],
        env: impl Iterator<Item = (OsString, OsString)>,
        stdin: impl Read,
    ) -> Result<Invocation, CniError> {
        let env = Variables::collect(env);
        let name = env.command.to_string_lossy();
        let command = Command::parse(&name);
        if name.is_empty() {
            return Ok(Invocation::NoCommand);
        }
        env.check(command)?;
        if command == Some(Command::Version) {
            return Ok(Invocation::Version);
        }
        let stdin = read_bounded(stdin)?;
        let (config, network) = parse_named(&stdin)?;
        let Some(command) = command else {
            return Err(CniError::new(Code::InvalidEnvironment, format!("unknown CNI_COMMAND: {name}")));
        };
        let version = checked_version(&config, command, supported)?;
        Ok(Invocation::Call(Box::new(Request {
            command,
            container_id: env.container_id.to_string_lossy().into_owned(),
            netns: Some(env.netns).filter(|path| !path.is_empty()).map(PathBuf::from),
            ifname: env.ifname.to_string_lossy().into_owned(),
            args: env.args.to_string_lossy().into_owned(),
            path: split_path(&env.path, command)?,
            netns_override: env.netns_override == "1" || env.netns_override.eq_ignore_ascii_case("true"),
            stdin,
            config,
            network,
            version,
        })))
    }
}

/// The variables of the protocol. A name given twice has its first value, as in Go and C.
#[derive(Default)]
struct Variables {
    command: OsString,
    container_id: OsString,
    netns: OsString,
    ifname: OsString,
    args: OsString,
    path: OsString,
    netns_override: OsString,
}

impl Variables {
    fn collect(env: impl Iterator<Item = (OsString, OsString)>) -> Variables {
        let mut found = Variables::default();
        for (name, value) in env {
            let Some(name) = name.to_str() else { continue };
            let slot = match name {
                "CNI_COMMAND" => &mut found.command,
                "CNI_CONTAINERID" => &mut found.container_id,
                "CNI_NETNS" => &mut found.netns,
                "CNI_IFNAME" => &mut found.ifname,
                "CNI_ARGS" => &mut found.args,
                "CNI_PATH" => &mut found.path,
                "CNI_NETNS_OVERRIDE" => &mut found.netns_override,
                _ => continue,
            };
            if slot.is_empty() {
                *slot = value;
            }
        }
        found
    }

    /// Each variable in Go's order: an invalid one ends it, missing ones are listed together.
    fn check(&self, command: Option<Command>) -> Result<(), CniError> {
        let mut missing = Vec::new();
        for (name, value, needs, rule) in self.rules() {
            if !command.is_some_and(needs) {
                continue;
            }
            if value.is_empty() {
                missing.push(name);
            } else {
                rule(value)?;
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let msg = format!("required env variables [{}] missing", missing.join(","));
        Err(CniError::new(Code::InvalidEnvironment, msg))
    }

    fn rules(&self) -> [Rule<'_>; 4] {
        let anything: fn(&OsStr) -> Result<(), CniError> = |_| Ok(());
        [
            (
                "CNI_CONTAINERID",
                &self.container_id,
                |command| matches!(command, Command::Add | Command::Check | Command::Del),
                // A byte that is not UTF-8 becomes a character that no rule of these names admits.
                |id| names::validate_container_id(&id.to_string_lossy()),
            ),
            // It goes into a record and to delegates, as text.
            (
                "CNI_NETNS",
                &self.netns,
                |command| matches!(command, Command::Add | Command::Check),
                |path| {
                    let refusal = || CniError::new(Code::InvalidEnvironment, "CNI_NETNS is not UTF-8");
                    path.to_str().map(drop).ok_or_else(refusal)
                },
            ),
            (
                "CNI_IFNAME",
                &self.ifname,
                |command| matches!(command, Command::Add | Command::Check | Command::Del),
                |name| match name.to_str() {
                    Some(name) => names::validate_ifname(name),
                    None => Err(CniError::new(Code::InvalidEnvironment, "interface name is not UTF-8")),
                },
            ),
            ("CNI_PATH", &self.path, |command| command != Command::Version, anything),
        ]
    }
}

/// A variable: its name, its value, which commands need it, what its value must be.
type Rule<'a> = (&'static str, &'a OsString, fn(Command) -> bool, fn(&OsStr) -> Result<(), CniError>);

fn read_bounded(stdin: impl Read) -> Result<Vec<u8>, CniError> {
    let failed = |why: String| CniError::new(Code::Io, format!("error reading from stdin: {why}"));
    let mut bytes = Vec::new();
    stdin.take(STDIN_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= STDIN_BYTES_MAX) {
        Ok(bytes)
    } else {
        Err(failed(format!("more than {STDIN_BYTES_MAX} bytes")))
    }
}

/// The configuration and its name. Go decodes the name alone at this point, so only its type can be wrong here.
fn parse_named(stdin: &[u8]) -> Result<(Map<String, Value>, String), CniError> {
    let refused = |why: String| CniError::new(Code::Decode, format!("error unmarshall network config: {why}"));
    let config = gojson::parse_object(stdin, r#"struct { Name string "json:\"name\"" }"#)
        .map_err(|error| refused(error.to_string()))?;
    let name = text_field(&config, "name").map_err(refused)?.to_string();
    names::validate_network_name(&name)?;
    Ok((config, name))
}

/// A string field of a Go struct without a name; missing is empty.
fn text_field<'a>(config: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    match gojson::field(config, key) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(gojson::mismatch(other, &format!("struct field .{key}"), "string").to_string()),
    }
}

/// The version, once it is clear that it knows the command and is supported.
fn checked_version(config: &Map<String, Value>, command: Command, supported: &[Version]) -> Result<Version, CniError> {
    let decoding = |why: String| CniError::new(Code::Decode, why);
    let text = text_field(config, "cniVersion")
        .map_err(|why| decoding(format!("decoding version from network config: {why}")))?;
    let since = version::since(command);
    if since > Version::V0_1_0 {
        // Go compares numbers first, so a version that does not exist still has to be new enough.
        let refused = |whose: &str| {
            CniError::new(Code::IncompatibleVersion, format!("{whose} version does not allow {}", command.as_str()))
        };
        let asked = version::numbers(text).map_err(decoding)?;
        if asked < version::numbers(since.as_str()).map_err(decoding)? {
            return Err(refused("config"));
        }
        let newest = supported.iter().max().map_or("0.0.0", |version| version.as_str());
        if version::numbers(newest).map_err(decoding)? < asked {
            return Err(refused("plugin"));
        }
    }
    let named = if text.is_empty() { Version::V0_1_0.as_str() } else { text };
    Version::parse(named)
        .filter(|found| supported.contains(found))
        .ok_or_else(|| version::incompatible(named, supported))
}

/// DEL and GC use what they can of a path that is too long: they must not fail for what an ADD was refused for.
fn split_path(path: &OsStr, command: Command) -> Result<Vec<PathBuf>, CniError> {
    let mut dirs: Vec<PathBuf> = path
        .as_bytes()
        .split(|byte| *byte == b':')
        .filter(|dir| !dir.is_empty())
        .take(PATH_DIRS_MAX + 1)
        .map(|dir| PathBuf::from(OsStr::from_bytes(dir)))
        .collect();
    if matches!(command, Command::Del | Command::Gc) {
        dirs.truncate(PATH_DIRS_MAX);
    }
    if dirs.len() > PATH_DIRS_MAX {
        let msg = format!("CNI_PATH names more than {PATH_DIRS_MAX} directories");
        return Err(CniError::new(Code::InvalidEnvironment, msg));
    }
    Ok(dirs)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    const CONF: &str = r#"{"cniVersion":"1.0.0","name":"net","type":"x"}"#;

    fn read(vars: &[(&str, &str)], stdin: &str) -> Result<Invocation, CniError> {
        let env = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Request::from_env(env, stdin.as_bytes())
    }

    /// A call with every variable, some of them replaced.
    fn call(command: &str, replaced: &[(&str, &str)], stdin: &str) -> Result<Invocation, CniError> {
        let mut vars = vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/blue"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin::/usr/lib/cni"),
            ("PATH", "/bin"),
        ];
        vars.retain(|(name, _)| !replaced.iter().any(|(other, _)| other == name));
        vars.extend(replaced);
        read(&vars, stdin)
    }

    fn refused(result: Result<Invocation, CniError>) -> (u32, String) {
        let error = result.unwrap_err();
        (error.code.number(), error.to_string())
    }

    #[test]
    fn a_call_is_read() {
        let vars = [("CNI_ARGS", "A=1"), ("CNI_NETNS_OVERRIDE", "True")];
        let Invocation::Call(request) = call("ADD", &vars, CONF).unwrap() else { panic!("no call") };
        assert_eq!((request.command, request.container_id.as_str()), (Command::Add, "c1"));
        assert_eq!((request.netns, request.ifname.as_str()), (Some(PathBuf::from("/run/netns/blue")), "eth0"));
        assert_eq!((request.args.as_str(), request.netns_override), ("A=1", true));
        assert_eq!(request.path, [PathBuf::from("/opt/cni/bin"), PathBuf::from("/usr/lib/cni")]);
        assert_eq!((request.network.as_str(), request.version), ("net", Version::V1_0_0));
        assert_eq!((request.stdin, request.config.len()), (CONF.as_bytes().to_vec(), 3));
    }

    #[test]
    fn no_command_and_version_read_nothing() {
        struct Unreadable;
        impl Read for Unreadable {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("must not be read"))
            }
        }
        assert_eq!(Request::from_env([].into_iter(), Unreadable), Ok(Invocation::NoCommand));
        let version = || [("CNI_COMMAND".into(), "VERSION".into())].into_iter();
        assert_eq!(Request::from_env(version(), Unreadable), Ok(Invocation::Version));
        assert_eq!(call("", &[("CNI_CONTAINERID", "!")], ""), Ok(Invocation::NoCommand));
        let gc = || [("CNI_COMMAND".into(), "GC".into()), ("CNI_PATH".into(), "/x".into())].into_iter();
        let error = Request::from_env(gc(), Unreadable).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (Code::Io, "error reading from stdin: must not be read"));
    }

    #[test]
    fn each_command_has_its_required_variables() {
        let cases = [
            ("ADD", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
            ("CHECK", "CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH"),
            ("DEL", "CNI_CONTAINERID,CNI_IFNAME,CNI_PATH"),
            ("GC", "CNI_PATH"),
            ("STATUS", "CNI_PATH"),
        ];
        for (command, missing) in cases {
            let expected = (4, format!("required env variables [{missing}] missing"));
            assert_eq!(refused(read(&[("CNI_COMMAND", command)], "")), expected);
        }
        let missing = refused(call("ADD", &[("CNI_NETNS", ""), ("CNI_PATH", "")], CONF));
        assert_eq!(missing.1, "required env variables [CNI_NETNS,CNI_PATH] missing");
        let Invocation::Call(request) = call("DEL", &[("CNI_NETNS", "")], CONF).unwrap() else { panic!("no call") };
        assert_eq!(request.netns, None);
    }

    /// Command, variables, standard input; code and text.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], String, u32, String);

    #[test]
    fn refusals_come_in_go_s_order_and_words() {
        // Each was printed by the Go plugin `loopback` for the same call.
        let bad_id = [("CNI_CONTAINERID", "!bad"), ("CNI_PATH", "")];
        let bad_ifname = [("CNI_IFNAME", "a/b")];
        let unnamed_array = r#"error unmarshall network config: json: cannot unmarshal array into Go value of type struct { Name string "json:\"name\"" }"#;
        let incompatible = |version: &str| {
            format!(
                r#"incompatible CNI versions; config is "{version}", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#
            )
        };
        let conf = |version: &str| format!(r#"{{"name":"x","cniVersion":{version}}}"#);
        let cases: Vec<Case> = vec![
            ("ADD", &bad_id, "{".into(), 4, "invalid characters in containerID; !bad".into()),
            ("ADD", &bad_ifname, "{".into(), 4, "interface name contains / or : or whitespace characters".into()),
            ("ADD", &[], "[]".into(), 6, unnamed_array.into()),
            ("ADD", &[], r#"{"name":3}"#.into(), 6, "error unmarshall network config: json: cannot unmarshal number into Go struct field .name of type string".into()),
            ("ADD", &[], "null".into(), 7, "missing network name".into()),
            ("ADD", &[], r#"{"name":"a b"}"#.into(), 7, "invalid characters found in network name; a b".into()),
            ("ADD", &[], String::new(), 6, "error unmarshall network config: unexpected end of JSON input".into()),
            ("ADD", &[], r#"{"name":"x"} x"#.into(), 6, "error unmarshall network config: invalid character 'x' after top-level value".into()),
            ("ADD", &[], conf("3"), 6, "decoding version from network config: json: cannot unmarshal number into Go struct field .cniVersion of type string".into()),
            ("ADD", &[], conf(r#""abc""#), 1, incompatible("abc")),
            ("DEL", &[], conf(r#""9.9.9""#), 1, incompatible("9.9.9")),
            ("CHECK", &[], conf(r#""9.9.9""#), 1, "plugin version does not allow CHECK".into()),
            ("CHECK", &[], conf(r#""abc""#), 6, r#"failed to convert major version part "abc": strconv.Atoi: parsing "abc": invalid syntax"#.into()),
            ("CHECK", &[], conf(r#""0.4.1""#), 1, incompatible("0.4.1")),
            ("CHECK", &[], conf(r#""0.3.1""#), 1, "config version does not allow CHECK".into()),
            ("GC", &[], conf(r#""1.0.0""#), 1, "config version does not allow GC".into()),
            ("GC", &[], conf(r#""""#), 1, "config version does not allow GC".into()),
            ("STATUS", &[], conf(r#""1.0.0""#), 1, "config version does not allow STATUS".into()),
            ("GC", &[], conf(r#""1.1""#), 1, incompatible("1.1")),
            ("GC", &[], conf(r#""1.1.0.0""#), 6, r#"invalid version "1.1.0.0": too many parts"#.into()),
            ("FOO", &[], r#"{"name":"x","cniVersion":3}"#.into(), 4, "unknown CNI_COMMAND: FOO".into()),
            ("FOO", &[], "null".into(), 7, "missing network name".into()),
            ("add", &[], CONF.into(), 4, "unknown CNI_COMMAND: add".into()),
        ];
        for (command, vars, stdin, code, text) in cases {
            assert_eq!(refused(call(command, vars, &stdin)), (code, text), "{command} {stdin}");
        }
    }

    #[test]
    fn a_missing_version_is_the_first() {
        for stdin in [r#"{"name":"x"}"#, r#"{"name":"x","cniVersion":""}"#, r#"{"NAME":"x","cniVersion":null}"#] {
            let Invocation::Call(request) = call("ADD", &[], stdin).unwrap() else { panic!("no call") };
            assert_eq!(request.version, Version::V0_1_0);
        }
    }

    #[test]
    fn a_plugin_may_speak_fewer_versions() {
        let vars = || [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "e"), ("CNI_PATH", "/x")];
        let env = || vars().into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let supported = [Version::V0_4_0, Version::V1_0_0];
        assert!(Request::from_env_for(&supported, env(), CONF.as_bytes()).is_ok());
        let error = Request::from_env_for(&supported, env(), &br#"{"name":"x"}"#[..]).unwrap_err();
        assert_eq!(error.details, r#"config is "0.1.0", plugin supports ["0.4.0" "1.0.0"]"#);
    }

    #[test]
    fn hostile_variables_are_refused() {
        let bytes = |name: &'static str| (OsString::from(name), OsString::from_vec(vec![b'a', 0xff]));
        let base = || {
            let vars = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "e"), ("CNI_PATH", "/x")];
            vars.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value)))
        };
        let with = |hostile: (OsString, OsString)| {
            let kept = base().filter(|(name, _)| *name != hostile.0).collect::<Vec<_>>();
            refused(Request::from_env(kept.into_iter().chain([hostile]), CONF.as_bytes()))
        };
        assert_eq!(with(bytes("CNI_CONTAINERID")), (4, "invalid characters in containerID; a\u{fffd}".to_string()));
        assert_eq!(with(bytes("CNI_IFNAME")), (4, "interface name is not UTF-8".to_string()));
        let add = base().filter(|(name, _)| name != "CNI_COMMAND").chain([("CNI_COMMAND".into(), "ADD".into())]);
        let add = refused(Request::from_env(add.chain([bytes("CNI_NETNS")]), CONF.as_bytes()));
        assert_eq!(add, (4, "CNI_NETNS is not UTF-8".to_string()));
        assert_eq!(with(bytes("CNI_COMMAND")), (4, "unknown CNI_COMMAND: a\u{fffd}".to_string()));
        assert_eq!(with(("CNI_CONTAINERID".into(), "c".repeat(1 << 17).into())).0, 4);
        let long = "/x:".repeat(PATH_DIRS_MAX + 1);
        let add = refused(call("ADD", &[("CNI_PATH", &long)], CONF));
        assert_eq!(add, (4, "CNI_PATH names more than 128 directories".to_string()));
        let Invocation::Call(del) = call("DEL", &[("CNI_PATH", &long)], CONF).unwrap() else { panic!("no call") };
        assert_eq!(del.path.len(), PATH_DIRS_MAX);
        let args = Request::from_env(base().chain([bytes("CNI_ARGS")]), CONF.as_bytes()).unwrap();
        assert!(matches!(args, Invocation::Call(request) if request.args == "a\u{fffd}"));
    }

    #[test]
    fn a_huge_configuration_is_refused() {
        let stdin = std::io::repeat(b' ');
        let env = [("CNI_COMMAND".into(), "GC".into()), ("CNI_PATH".into(), "/x".into())];
        let error = Request::from_env(env.into_iter(), stdin).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (Code::Io, "error reading from stdin: more than 8388608 bytes"));
    }
}
