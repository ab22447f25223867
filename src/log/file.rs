//! A file that many processes append lines to at once, each line in one write, and that is put aside when it is full.
//!
//! Whatever the path leads to, nobody waits for it: a FIFO without a reader, a lock that another process holds, a full disk.
//! It does not know what a line says.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg, OFlag};

use super::clock;
use crate::config::LogConf;

const MEGABYTE: u64 = 1 << 20;
const DAY: Duration = Duration::from_secs(86_400);
/// More files than the folder of any log has; what is beyond is not looked at.
const FILES_MAX: usize = 10_000;
/// Full files of one millisecond: the name of each next one says a later one.
const NAMES_MAX: u32 = 100;
/// What compresses: the node's own gzip. A library for it would make every exec of plexus-cni larger, for a few files a year. The
/// shell ends at once and nobody waits for gzip, nor has it for a child.
const COMPRESS: &str = r#"gzip -f -q -- "$@" &"#;
/// Where it is looked for.
const TOOLS: &str = "/usr/bin:/bin";
const GZIP_ENDING: &str = ".gz";

/// Appends one line, and puts the file aside before that where it would be too large.
///
/// # Errors
/// The line is not in the file: it cannot be opened, is a folder or a disk, has no reader, or its disk is full.
pub(super) fn append(path: &Path, conf: &LogConf, output: Output, line: &[u8]) -> io::Result<()> {
    let mut file = open(path)?;
    let is_output = is_output(&file)?;
    if is_output && output == Output::Answer {
        return Err(io::Error::other(OfAnswer));
    }
    let meta = file.metadata()?;
    let limit = u64::from(conf.max_size_mb).saturating_mul(MEGABYTE);
    let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
    // What standard output leads to was opened by whoever started this process, and would lead to the full file still.
    if !is_output && meta.is_file() && meta.len() > 0 && meta.len().saturating_add(length) > limit {
        // Where it cannot be put aside the line is worth more than the bound.
        if let Ok(next) = put_aside(path, file.try_clone()?, conf) {
            file = next;
        }
    }
    match file.write(line)? {
        written if written == line.len() => Ok(()),
        _ => Err(ErrorKind::WriteZero.into()),
    }
}

/// Whether a line could be appended now.
///
/// # Errors
/// What [`append`] would meet when it opens the file.
pub(super) fn try_open(path: &Path) -> io::Result<()> {
    open(path).map(drop)
}

/// What standard output of this process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// The caller reads an answer from it.
    Answer,
    /// Nothing: a log may go there.
    Free,
}

/// The file is where the answer goes: a line in it would be one in the answer.
#[derive(Debug, thiserror::Error)]
#[error("it is standard output, where the answer goes")]
pub(super) struct OfAnswer;

/// Whether this is what standard output leads to (`/dev/stdout`, a redirection).
fn is_output(file: &File) -> io::Result<bool> {
    let Ok(output) = io::stdout().as_fd().try_clone_to_owned() else { return Ok(false) };
    let (here, there) = (file.metadata()?, File::from(output).metadata()?);
    Ok((here.dev(), here.ino()) == (there.dev(), there.ino()))
}

/// Opens it to append, and makes it with its folders where it is missing.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(flags.bits());
    let file = options.open(path).or_else(|error| match (error.kind(), path.parent()) {
        (ErrorKind::NotFound, Some(folder)) => {
            DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            options.open(path)
        }
        _ => Err(error),
    })?;
    let kind = file.metadata()?.file_type();
    if kind.is_block_device() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is a disk"));
    }
    Ok(file)
}

/// Renames the full file under its own lock and returns its successor. Who does not get the lock goes on with the full one:
/// somebody else is at it.
fn put_aside(path: &Path, full: File, conf: &LogConf) -> io::Result<File> {
    let full = Flock::lock(full, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| io::Error::from(errno))?;
    let (here, held) = (fs::metadata(path)?, full.metadata()?);
    if (here.dev(), here.ino()) == (held.dev(), held.ino()) {
        // A symbolic link stays one: what it leads to is put aside.
        let path = fs::read_link(format!("/proc/self/fd/{}", full.as_raw_fd()))?;
        let names = Names::of(&path)?;
        let before = names.full(&path);
        fs::rename(&path, names.free(&path, SystemTime::now())?)?;
        let kept = prune(&names, before, conf, SystemTime::now());
        // Others may still write to the one that was just renamed: it is compressed when the next one is full.
        if conf.compress {
            compress(kept.iter().filter(|full| !is_compressed(full)));
        }
    }
    open(path)
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gz")
}

/// `folder/log.txt` becomes `folder/log-<time>.txt`, as lumberjack names it, which Multus rotates with.
struct Names<'a> {
    stem: &'a str,
    /// With its dot; empty where there is none.
    ending: String,
}

impl<'a> Names<'a> {
    fn of(path: &'a Path) -> io::Result<Names<'a>> {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).ok_or(ErrorKind::InvalidInput)?;
        let ending = path.extension().map(|ending| ending.to_str().ok_or(ErrorKind::InvalidInput)).transpose()?;
        Ok(Names { stem, ending: ending.map(|ending| format!(".{ending}")).unwrap_or_default() })
    }

    /// A name that no file has.
    fn free(&self, path: &Path, now: SystemTime) -> io::Result<PathBuf> {
        let later = |step: u32| now + Duration::from_millis(u64::from(step));
        let name = |time| path.with_file_name(format!("{}-{}{}", self.stem, clock::in_name(time), self.ending));
        let mut names = (0..NAMES_MAX).map(later).map(name);
        let is_free = |name: &PathBuf| fs::symlink_metadata(name).is_err_and(|e| e.kind() == ErrorKind::NotFound);
        names.find(is_free).ok_or_else(|| ErrorKind::AlreadyExists.into())
    }

    /// When a file was put aside, as its name has it; none where it is another file.
    fn time<'p>(&self, path: &'p Path) -> Option<&'p str> {
        let name = path.file_name()?.to_str()?;
        let plain = name.strip_suffix(GZIP_ENDING).unwrap_or(name);
        let time = plain.strip_prefix(self.stem)?.strip_prefix('-')?.strip_suffix(&self.ending)?;
        is_time(time).then_some(time)
    }

    /// All that were put aside, the newest first. What only begins alike is somebody else's.
    fn full(&self, path: &Path) -> Vec<PathBuf> {
        let Some(Ok(entries)) = path.parent().map(fs::read_dir) else { return Vec::new() };
        let paths = entries.take(FILES_MAX).filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let mut full: Vec<PathBuf> = paths.filter(|path| self.time(path).is_some()).collect();
        full.sort();
        full.reverse();
        full
    }
}

/// The form of [`clock::in_name`].
fn is_time(text: &str) -> bool {
    const FORM: &str = "0000-00-00T00-00-00.000";
    let fits = |(form, c): (char, char)| if form == '0' { c.is_ascii_digit() } else { c == form };
    text.len() == FORM.len() && FORM.chars().zip(text.chars()).all(fits)
}

/// Deletes what is too old or too much, one more having come just now; what is left.
fn prune(names: &Names, full: Vec<PathBuf>, conf: &LogConf, now: SystemTime) -> Vec<PathBuf> {
    let age = DAY.saturating_mul(conf.max_age_days);
    let oldest = now.checked_sub(age).filter(|_| conf.max_age_days > 0).map(clock::in_name).unwrap_or_default();
    let (mut kept, mut times, mut last) = (Vec::new(), 0, String::new());
    for path in full {
        let time = names.time(&path).unwrap_or_default();
        // A file and its compressed form count once.
        if time != last {
            times += 1;
            last = time.to_owned();
        }
        let is_too_much = conf.max_backups > 0 && times >= conf.max_backups;
        if is_too_much || last < oldest {
            let _ = fs::remove_file(&path); // another process may have been faster
        } else {
            kept.push(path);
        }
    }
    kept
}

/// Starts what replaces each file by its compressed form. Where there is no gzip, they stay as they are.
fn compress<'p>(files: impl Iterator<Item = &'p PathBuf>) {
    let mut files = files.peekable();
    if files.peek().is_none() {
        return;
    }
    let _ = Command::new("/bin/sh") // no shell: no compression
        .args(["-c", COMPRESS, "sh"])
        .args(files)
        .env_clear()
        .env("PATH", TOOLS)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .process_group(0) // a runtime that kills the plugin's group must not leave half a file
        .status();
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;
    use std::time::Instant;

    use nix::sys::stat::Mode;

    use super::*;
    use crate::config::Level;

    fn conf() -> LogConf {
        LogConf {
            file: None,
            level: Level::Debug,
            to_stderr: false,
            max_age_days: 5,
            max_size_mb: 1,
            max_backups: 2,
            compress: false,
        }
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("plexus-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_no_file_keeps_nobody_waiting() {
        let dir = folder("odd");
        let line = b"line\n";
        assert!(append(&dir, &conf(), Output::Answer, line).is_err(), "a folder");
        let fifo = dir.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        assert!(append(&fifo, &conf(), Output::Answer, line).is_err(), "a FIFO that nobody reads");
        let mut reader = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&fifo).unwrap();
        append(&fifo, &conf(), Output::Answer, line).unwrap();
        let mut got = [0; 5];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, line);
        while append(&fifo, &conf(), Output::Answer, &[b'x'; 4096]).is_ok() {} // it is full: an error and no wait
        let circle = dir.join("circle");
        std::os::unix::fs::symlink(&circle, &circle).unwrap();
        assert!(append(&circle, &conf(), Output::Answer, line).is_err());
        append(Path::new("/dev/null"), &conf(), Output::Answer, line).unwrap();
        let full = append(Path::new("/dev/full"), &conf(), Output::Answer, line).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        append(&dir.join("new/folder/log"), &conf(), Output::Answer, line).unwrap();
        assert_eq!(fs::read(dir.join("new/folder/log")).unwrap(), line);
        assert!(append(&dir.join("fifo/log"), &conf(), Output::Answer, line).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_full_file_is_put_aside_and_so_many_stay() {
        let dir = folder("full");
        let path = dir.join("log.txt");
        fs::write(dir.join("log-2020-01-01T00-00-00.000.txt.gz"), "old").unwrap();
        fs::write(dir.join("log-of-somebody-else.txt"), "stays").unwrap();
        let half = vec![b'x'; 600 << 10];
        for round in 0..5 {
            append(&path, &conf(), Output::Answer, &half).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), 600 << 10, "round {round}");
        }
        let found = names(&dir);
        assert_eq!(found.len(), 4, "{found:?}"); // two full ones, the present one, the stranger
        assert!(found.contains(&"log-of-somebody-else.txt".to_owned()));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_symbolic_link_stays_and_another_s_lock_keeps_nobody_waiting() {
        let dir = folder("link");
        let (path, target) = (dir.join("log"), dir.join("real.log"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        append(&path, &conf(), Output::Answer, &vec![b'x'; 1 << 20]).unwrap();
        let other = Flock::lock(File::open(&target).unwrap(), FlockArg::LockExclusive).unwrap();
        append(&path, &conf(), Output::Answer, b"a\n").unwrap();
        assert_eq!(fs::metadata(&target).unwrap().len(), (1 << 20) + 2, "who holds the lock is about to put it aside");
        drop(other);
        append(&path, &conf(), Output::Answer, b"b\n").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"b\n");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn lines_of_many_writers_stay_whole_and_none_is_lost() {
        let dir = folder("many");
        let path = dir.join("log");
        let conf = LogConf { max_backups: 0, ..conf() };
        let (writers, lines) = (8, 400);
        thread::scope(|scope| {
            for writer in 0..writers {
                let (path, conf) = (&path, &conf);
                scope.spawn(move || {
                    for number in 0..lines {
                        let line = format!("{writer} {number} {}\n", "y".repeat(1000));
                        append(path, conf, Output::Answer, line.as_bytes()).unwrap();
                    }
                });
            }
        });
        let all: Vec<String> = names(&dir).iter().map(|name| fs::read_to_string(dir.join(name)).unwrap()).collect();
        assert!(all.len() > 1, "3 MB do not fit in one file");
        let mut seen: Vec<&str> = all.iter().flat_map(|text| text.lines()).collect();
        assert!(seen.iter().all(|line| line.ends_with(&"y".repeat(1000))));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), writers * lines);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn old_ones_go_and_a_name_that_is_taken_is_not_taken_again() {
        let dir = folder("old");
        let path = dir.join("log");
        fs::write(&path, "").unwrap();
        let now = SystemTime::now();
        let name = |days: u32| format!("log-{}", clock::in_name(now - DAY * days));
        for days in [0, 4, 6] {
            fs::write(dir.join(name(days)), "").unwrap();
        }
        let names = Names::of(&path).unwrap();
        let kept = prune(&names, names.full(&path), &LogConf { max_backups: 0, ..conf() }, now);
        assert_eq!(kept, [dir.join(name(0)), dir.join(name(4))]);
        assert!(!dir.join(name(6)).exists());
        assert_eq!(
            names.free(&path, now).unwrap(),
            dir.join(format!("log-{}", clock::in_name(now + Duration::from_millis(1))))
        );
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_is_older_than_the_last_full_one_is_compressed() {
        let dir = folder("gzip");
        let path = dir.join("log");
        let conf = LogConf { max_backups: 0, max_age_days: 0, compress: true, ..conf() };
        let older = dir.join("log-2020-01-01T00-00-00.000");
        fs::write(&older, "line\n").unwrap();
        fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        append(&path, &conf, Output::Answer, b"next\n").unwrap();
        let begin = Instant::now();
        while older.exists() && begin.elapsed() < Duration::from_secs(30) {
            thread::yield_now();
        }
        let found = names(&dir);
        assert!(found.contains(&"log-2020-01-01T00-00-00.000.gz".to_owned()), "{found:?}");
        let plain = found.iter().filter(|name| name.starts_with("log-2") && !name.ends_with("gz")).count();
        assert_eq!((found.len(), plain), (3, 1), "{found:?}");
        fs::remove_dir_all(&dir).unwrap();
    }
}
