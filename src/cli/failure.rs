//! Why a command of `plexus` failed, and the exit code that says so to a script.

use std::io;
use std::process::ExitCode;

use super::demo::Refusal;

/// The exit codes, as `--help` shows them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the reason is on standard error
  2  wrong usage
  3  demo: this machine forbids what the demo needs (user namespaces); nothing was done
  4  demo: it ran, but a ping was not answered or something was left
  5  check: an attachment is not as it was attached; doctor, list --devices, validate: something is wrong";

/// How `plexus` ends. `oneshot` alone differs: it ends as a CNI plugin does, 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Something could not be done.
    Failed = 1,
    /// The machine's settings forbid the demo. (2 is wrong usage, and is clap's.)
    Refused = 3,
    /// The demo ran to its end and did not show what it should.
    Unproven = 4,
    /// The node is not as it should be, and what was printed says how.
    Wrong = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed: the act, the place where there is one, the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Failure {
    /// The system refused something.
    #[error("{act}")]
    System {
        /// What was being done, with its place.
        act: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A value could not be written as JSON.
    #[error("writing JSON")]
    Json(#[source] serde_json::Error),
    /// plexus, executed as a plugin, did not do what it was asked for.
    #[error("{command} for pod {pod}: {why}")]
    Plugin {
        /// The CNI command.
        command: &'static str,
        /// The pod.
        pod: String,
        /// The plugin's own words.
        why: String,
    },
    /// A file says something that cannot be meant.
    #[error("{act}: {why}")]
    Input {
        /// What was being read, with its place.
        act: String,
        /// What is wrong with it.
        why: String,
    },
    /// The daemon does not start.
    #[cfg(feature = "api")]
    #[error("starting the daemon")]
    Daemon(#[from] plexus::daemon::OpenError),
    /// The machine forbids the demo.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The demo's own verdict.
    #[error("pings not answered: {unanswered} of {pings}; things left: {left}")]
    Unproven {
        /// How many pings got no answer.
        unanswered: usize,
        /// How many were sent.
        pings: usize,
        /// How many things were left.
        left: usize,
    },
    /// `check`'s verdict.
    #[error("{differing} of {of} attachments are not as they were attached")]
    Differs {
        /// How many.
        differing: usize,
        /// Of how many.
        of: usize,
    },
    /// `validate`'s verdict.
    #[error("{mistakes} mistake(s): as it stands, pods would not start, or get what belongs to others")]
    Invalid {
        /// How many.
        mistakes: usize,
    },
    /// `doctor`'s verdict.
    #[error("{wrong} thing(s) are wrong")]
    Unwell {
        /// How many.
        wrong: usize,
    },
}

impl Failure {
    /// A refusal of the system, for `map_err`.
    pub(super) fn system<E: Into<io::Error>>(act: impl Into<String>) -> impl FnOnce(E) -> Failure {
        let act = act.into();
        move |source| Failure::System { act, source: source.into() }
    }

    /// The exit code of this failure.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Failure::Refused(_) => Exit::Refused,
            Failure::Unproven { .. } => Exit::Unproven,
            Failure::Differs { .. } | Failure::Invalid { .. } | Failure::Unwell { .. } => Exit::Wrong,
            #[cfg(feature = "api")]
            Failure::Daemon(_) => Exit::Failed,
            Failure::System { .. } | Failure::Json(_) | Failure::Plugin { .. } | Failure::Input { .. } => Exit::Failed,
        }
    }
}
