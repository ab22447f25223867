//! The words that labels are made of. All are closed: nothing of a request becomes a label's value, so the number of series is
//! known before the first of them. It does not know which metric has which label.

use std::fmt::{Error, Write as _};
use std::hash::{Hash, Hasher};

use nix::errno::Errno;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// What stands for everything that has no word of its own.
pub const OTHER: &str = "other";

/// A closed enum, the list of its values, and their words.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident = $word:literal,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$value_meta])* $value,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$value,)*];

            /// Its word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$value => $word,)* }
            }
        }
    )*};
}

words! {
    /// How a request ended that was served.
    Outcome {
        /// As it was asked for.
        Done = "done",
        /// With a CNI error.
        Failed = "failed",
        /// Not here: its plan executes plugins, which plexus-cni does itself.
        GivenBack = "given_back",
    }

    /// Why a request was not served, or not to its end.
    Refusal {
        /// As many as are allowed are under way and waiting.
        TooMany = "too_many",
        /// Its time was over.
        Deadline = "deadline",
        /// The DEL of its sandbox came.
        Cancelled = "cancelled",
        /// Serving it panicked.
        Panic = "panic",
        /// The frame was none, too large, or from somebody who may not ask.
        Frame = "frame",
    }

    /// What is kept of the API server's objects.
    Cache {
        /// This node's pods.
        Pod = "pod",
        /// All definitions.
        Definition = "definition",
    }

    /// What became of what reconciling found.
    Became {
        /// It was told, and let be.
        Reported = "reported",
        /// It was put right.
        Repaired = "repaired",
        /// It was of the dead, and is gone.
        Collected = "collected",
    }

    /// What the API server is asked.
    ApiVerb {
        /// Objects that a request lacks.
        Get = "get",
        /// What becomes of all of them: counted where it has ended, and is begun again.
        Watch = "watch",
        /// A pod's status.
        Patch = "patch",
    }

    /// How a call of the API server ended.
    ApiOutcome {
        /// It answered.
        Done = "done",
        /// It did not, or refused.
        Failed = "failed",
    }

    /// What reconciling finds where journal, kernel, leases and sandboxes do not agree.
    Finding {
        /// A record whose sandbox has ended.
        Ended = "ended",
        /// A record of which it cannot be said whether its sandbox lives.
        Unclear = "unclear",
        /// A record that cannot be read.
        Unreadable = "unreadable",
        /// A file of the journal that says nothing.
        Torn = "torn",
        /// A link that is recorded and not there.
        LinkMissing = "link_missing",
        /// A link that is not as it is recorded.
        LinkChanged = "link_changed",
        /// Rules of a pod that lives were taken from the packet filter.
        RulesMissing = "rules_missing",
        /// A lease of nobody who lives.
        Lease = "lease",
        /// A recorded address without its lease.
        LeaseMissing = "lease_missing",
        /// A definition that says something else than what was attached, or is there no more.
        Definition = "definition",
        /// A rule of the packet filter, of nobody who lives.
        Rule = "rule",
        /// A link that limits rates, of nobody who lives.
        Limit = "limit",
        /// A bridge's port that nobody's result names.
        Port = "port",
    }

    /// Who answers on the socket of Multus' shim, as Multus names them.
    ShimHandler {
        /// A runtime's requests.
        Cni = "/cni",
        /// One network of a pod that runs.
        Delegate = "/delegate",
        /// Whether requests are taken.
        Health = "/healthz",
        /// The same, as newer shims ask.
        Ready = "/readyz",
        /// Every other path.
        NotFound = "NotFound",
    }

    /// What it answered with.
    ShimCode {
        /// The result.
        Ok = "200",
        /// An error.
        BadRequest = "400",
        /// There is nothing at that path.
        NotFound = "404",
        /// Not by that method.
        NotAllowed = "405",
        /// The request did not come whole in time.
        TooSlow = "408",
        /// It is too large.
        TooLarge = "413",
        /// The daemon ends.
        Ends = "503",
    }

    /// What it was asked by, in the spelling of Go's handlers.
    ShimMethod {
        /// RFC 9110, as those below it.
        Get = "get",
        /// Without the answer's body.
        Head = "head",
        /// A shim's.
        Post = "post",
        /// Not allowed anywhere here.
        Put = "put",
        /// As PUT.
        Delete = "delete",
        /// As PUT.
        Connect = "connect",
        /// As PUT.
        Options = "options",
        /// As PUT.
        Trace = "trace",
        /// RFC 5789; as PUT.
        Patch = "patch",
        /// No method that is known.
        Unknown = "unknown",
    }
}

/// An error of the kernel, by its name. Those without a name (its own, such as 524) are one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ErrnoName(pub(super) Errno);

impl Hash for ErrnoName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0 as i32).hash(state);
    }
}

impl EncodeLabelValue for ErrnoName {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), Error> {
        match self.0 {
            Errno::UnknownErrno => encoder.write_str(OTHER),
            named => write!(encoder, "{named:?}"),
        }
    }
}
