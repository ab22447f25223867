//! What was measured on, and what was measured: without it a figure means nothing. Knows no figure.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::world::STATE;

/// The machine and the versions, as text; "unknown" where a source is missing.
#[derive(Debug)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    virtual_machine: bool,
    kernel: String,
    file_system: String,
    load_before: String,
    load_after: String,
    plexus: String,
    rust: String,
    go_plugins: String,
    go: String,
    command: String,
}

impl Machine {
    /// `go_plugins` is the directory of the Go plugins, which carry their versions.
    pub(crate) fn look(go_plugins: Option<&Path>) -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let plugin = go_plugins.map(|dir| dir.join("bridge").display().to_string());
        let modules = plugin.map(|file| said("go", &["version", "-m", &file])).unwrap_or_default();
        Self {
            cpu: field(&cpu, "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            virtual_machine: field(&cpu, "flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(unknown, |text| text.trim().to_owned()),
            file_system: file_system_of(STATE, &fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
            load_before: load(),
            load_after: String::new(),
            plexus: variable("BENCH_REVISION"),
            rust: said("rustc", &["--version"]),
            go_plugins: module_version(&modules).unwrap_or_else(|| "unknown".to_owned()),
            go: modules.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or("unknown").to_owned(),
            command: variable("BENCH_COMMAND"),
        }
    }

    /// The same after the measurements.
    pub(crate) fn seen_again(mut self) -> Self {
        self.load_after = load();
        self
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "machine": {"cpu": self.cpu, "cores": self.cores, "virtual": self.virtual_machine, "kernel": self.kernel,
                "file_system": self.file_system, "load_before": self.load_before, "load_after": self.load_after},
            "versions": {"plexus": self.plexus, "rust": self.rust, "go_plugins": self.go_plugins, "go": self.go},
            "command": self.command,
        })
    }

    pub(crate) fn text(&self) -> String {
        let place = if self.virtual_machine { "virtual machine" } else { "bare metal" };
        format!(
            "{} x {} ({place}), Linux {}, leases on {}, load {} before, {} after\n\
             plexus {} ({}), Go plugins {} ({})\n{}\n",
            self.cores,
            self.cpu,
            self.kernel,
            self.file_system,
            self.load_before,
            self.load_after,
            self.plexus,
            self.rust,
            self.go_plugins,
            self.go,
            self.command,
        )
    }
}

/// What `tests/bench/run` says about itself.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(unknown)
}

/// The type of the file system mounted last on `place` (proc_pid_mountinfo(5): after the field "-").
fn file_system_of(place: &str, mounts: &str) -> String {
    let line = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(place));
    let kind = line.and_then(|line| line.split_once(" - ")).and_then(|(_, rest)| rest.split(' ').next());
    kind.unwrap_or("unknown").to_owned()
}

fn unknown<E>(_: E) -> String {
    "unknown".to_owned()
}

/// The first three figures of /proc/loadavg: 1, 5 and 15 minutes.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_else(unknown);
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn field(text: &str, key: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn said(program: &str, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The plugins' version in the output of `go version -m`: the module itself, or a dependency of the module that built it.
fn module_version(modules: &str) -> Option<String> {
    let mut lines = modules.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find_map(|words| match words.as_slice() {
        ["mod" | "dep", "github.com/containernetworking/plugins", version, ..] => Some((*version).to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mount_on_a_place_counts() {
        let mounts = "30 1 0:5 / /var/lib/cni rw - tmpfs tmpfs rw\n31 1 8:1 /x /var/lib/cni rw shared:1 - ext4 /dev/a rw\n\
                      32 1 0:6 / /run rw - tmpfs tmpfs rw\n";
        assert_eq!(file_system_of("/var/lib/cni", mounts), "ext4");
        assert_eq!(file_system_of("/var", mounts), "unknown");
    }

    #[test]
    fn version_of_the_go_plugins() {
        let itself = "bridge: go1.26.8\n\tpath\tx\n\tmod\tgithub.com/containernetworking/plugins\tv1.9.1\th1:x=\n";
        assert_eq!(module_version(itself).as_deref(), Some("v1.9.1"));
        let dependency =
            "bridge: go1.26.8\n\tmod\tpeers\t(devel)\n\tdep\tgithub.com/containernetworking/plugins\tv1.9.1\th1:x=\n";
        assert_eq!(module_version(dependency).as_deref(), Some("v1.9.1"));
        assert_eq!(module_version("bridge: go1.26.8"), None);
    }
}
