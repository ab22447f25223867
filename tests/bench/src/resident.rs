//! The daemons of the sides that have one: how each is started, found ready, looked at and ended. Knows no pod.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::time::ClockId;
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde_json::{Value, json};

use crate::cluster::{PORT, Server, TOKEN};
use crate::rest::{is_gone, pause, stat_field, stays};
use crate::side::{Outcome, Programs};

/// Where daemons have their sockets.
const SOCKETS: &str = "/run/bench";
/// Where a pod of a cluster finds who it is.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The node that the pods are bound to.
pub(crate) const NODE: &str = "node";
/// How long a daemon may take until it listens, and how often that is looked at.
const READY_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY_MS: u16 = 10;
/// How much of its log a daemon that does not come up shows, in characters from the end.
const SHOWN_CHARACTERS_MAX: usize = 600;

/// A running daemon, which ends with this.
#[derive(Debug)]
pub(crate) struct Resident {
    child: Child,
    pid: Pid,
    log: PathBuf,
}

impl Resident {
    /// `plexus daemon` under a name of its own; the folder of its socket.
    pub(crate) fn plexus(programs: &Programs, name: &str) -> Outcome<(Self, PathBuf)> {
        let folder = Path::new(SOCKETS).join(name);
        fs::create_dir_all(&folder)?;
        let mut command = ends_with_us(programs.daemon()?);
        command.arg("daemon").arg("--socket-dir").arg(&folder).env_clear().env("NODE_NAME", NODE);
        let daemon = Self::start(command, &folder, &[folder.join("plexus.sock")])?;
        Ok((daemon, folder))
    }

    /// `multus-daemon` with this default network; the configuration that it writes for the runtime. `plugins`: where what it
    /// executes is.
    pub(crate) fn multus(server: &Server, name: &str, plugins: &Path, network: &Value) -> Outcome<(Self, Value)> {
        let folder = Path::new(SOCKETS).join(name);
        let (networks, runtime) = (folder.join("cluster"), folder.join("net.d"));
        for dir in [&networks, &runtime, Path::new(SERVICE_ACCOUNT)] {
            fs::create_dir_all(dir)?;
        }
        fs::copy(server.files.join("ca.crt"), Path::new(SERVICE_ACCOUNT).join("ca.crt"))?;
        fs::write(Path::new(SERVICE_ACCOUNT).join("token"), TOKEN)?;
        fs::write(Path::new(SERVICE_ACCOUNT).join("namespace"), "default")?;
        fs::write(networks.join("10-cluster.conf"), network.to_string())?;
        // The daemon empties it first. Both keys: with one of them missing every request hangs.
        let sockets = format!("{}/sockets/", folder.display());
        let own = json!({"cniVersion": "1.0.0", "chrootDir": "", "socketDir": sockets, "daemonSocketDir": sockets, "cniConfigDir": runtime,
            "multusConfigFile": "auto", "multusMasterCNI": "10-cluster.conf", "multusAutoconfigDir": networks,
            "binDir": plugins, "cniDir": folder.join("cache"), "logLevel": "error", "logToStderr": true});
        let file = folder.join("daemon-config.json");
        fs::write(&file, own.to_string())?;
        let mut command = ends_with_us(&server.programs.join("multus-daemon"));
        command.arg("-config").arg(file).env_clear().env("PATH", Programs::PATH).env("MULTUS_NODE_NAME", NODE);
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", PORT.to_string());
        let written = runtime.join("00-multus.conf");
        let daemon = Self::start(command, &folder, &[folder.join("sockets/multus.sock"), written.clone()])?;
        Ok((daemon, serde_json::from_str(&fs::read_to_string(written)?)?))
    }

    /// Starts it and waits until these files are there. It ends with this process, however that ends.
    fn start(mut command: Command, folder: &Path, signs: &[PathBuf]) -> Outcome<Self> {
        let log = folder.join("daemon.log");
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let child = command.spawn().map_err(|error| format!("setpriv: {error}"))?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let mut daemon = Self { child, pid, log };
        let deadline = Instant::now() + READY_MAX;
        let is_there = |file: &PathBuf| fs::metadata(file).is_ok_and(|found| !found.is_file() || found.len() > 0);
        while !signs.iter().all(is_there) {
            let ended = daemon.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let how = ended.map_or_else(|| "it still runs".to_owned(), |status| status.to_string());
                return Err(format!("a daemon does not come up ({how}): {}", daemon.said()).into());
            }
            pause(LOOK_EVERY_MS)?;
        }
        stays(pid)?;
        Ok(daemon)
    }

    /// The end of its log.
    fn said(&self) -> String {
        let mut text = String::new();
        // A log that cannot be read says nothing.
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        let skipped = text.chars().count().saturating_sub(SHOWN_CHARACTERS_MAX);
        text.chars().skip(skipped).collect()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// CPU that it has used, and those of its children that it has waited for, in milliseconds.
    pub(crate) fn cpu(&self) -> Outcome<f64> {
        let own = ClockId::pid_cpu_clock_id(self.pid)?.now()?;
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let ticks: f64 = [16, 17].into_iter().filter_map(|field| stat_field::<f64>(&stat, field)).sum();
        let a_second = sysconf(SysconfVar::CLK_TCK)?.ok_or("no clock ticks")?;
        Ok(Duration::from(own).as_secs_f64() * 1e3 + ticks * 1e3 / f64::from(u32::try_from(a_second)?))
    }

    /// A line of /proc/PID/status in kB, as MB: `VmRSS`, or `VmHWM`, the most that it ever was.
    pub(crate) fn memory(&self, key: &str) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find(|line| line.starts_with(key)).ok_or("no such line of a process' status")?;
        Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse::<f64>()? / 1024.0)
    }
}

fn ends_with_us(program: &Path) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

impl Drop for Resident {
    fn drop(&mut self) {
        is_gone(self.pid);
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
