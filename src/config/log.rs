//! What a configuration says of logs. It does not know how a line is written.

use std::path::PathBuf;

use super::given;
use super::keys::{LOG_AGE_DAYS, LOG_BACKUPS, LOG_SIZE_MB, LogOptions};

/// How much is written down. Each says what those before it say, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Next to nothing.
    #[default]
    Panic,
    /// Failures and warnings.
    Error,
    /// A line for each attachment.
    Verbose,
    /// Everything.
    Debug,
}

impl Level {
    /// The level of this name, whatever its case (Multus).
    pub fn of(word: &str) -> Option<Level> {
        [Level::Panic, Level::Error, Level::Verbose, Level::Debug]
            .into_iter()
            .find(|level| level.name().eq_ignore_ascii_case(word))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Panic => "panic",
            Level::Error => "error",
            Level::Verbose => "verbose",
            Level::Debug => "debug",
        }
    }
}

/// What is written down, where, and how long it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConf {
    /// The file, where one is wanted.
    pub file: Option<PathBuf>,
    /// How much.
    pub level: Level,
    /// On standard error too.
    pub to_stderr: bool,
    /// Days after which a full file goes; 0: never.
    pub max_age_days: u32,
    /// Megabytes at which a file is full; never 0.
    pub max_size_mb: u32,
    /// Full files that stay; 0: all.
    pub max_backups: u32,
    /// Full files are compressed.
    pub compress: bool,
}

impl LogConf {
    /// What a program is told that has no configuration: on standard error, and in `file`, which is kept as by default.
    pub fn of_program(file: Option<PathBuf>, level: Level) -> LogConf {
        let file = file.map(|file| file.to_string_lossy().into_owned());
        LogConf { level, ..LogConf::read(file, None, true, None, &mut Vec::new()) }
    }

    /// `None` in `level`: not given.
    pub(super) fn read(
        file: Option<String>,
        level: Option<&str>,
        to_stderr: bool,
        options: Option<LogOptions>,
        warnings: &mut Vec<String>,
    ) -> LogConf {
        let level = level.filter(|word| !word.is_empty()).and_then(|word| {
            let level = Level::of(word);
            if level.is_none() {
                warnings.push(format!("logLevel: there is no level {word:?}: it is panic, error, verbose or debug"));
            }
            level
        });
        let options = options.unwrap_or_default();
        let count = |given: Option<i64>, unset: u64| {
            u32::try_from(given.map_or(unset, |number| u64::try_from(number).unwrap_or(0))).unwrap_or(u32::MAX)
        };
        let size = options.max_size.filter(|size| *size > 0);
        LogConf {
            file: given(file).map(PathBuf::from),
            level: level.unwrap_or_default(),
            to_stderr,
            max_age_days: count(options.max_age, LOG_AGE_DAYS),
            max_size_mb: count(size, LOG_SIZE_MB),
            max_backups: count(options.max_backups, LOG_BACKUPS),
            compress: options.compress.unwrap_or(true),
        }
    }
}
