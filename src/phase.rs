//! The phases of a request, and why others work for it, so that who does the work and who measures it say the same words. It does
//! not know clocks.

/// What a request spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It waits for its turn.
    Queue,
    /// Its pod and the definitions that the pod names are fetched.
    Pod,
    /// Everything is resolved and validated.
    Plan,
    /// Its record is written, committed or removed.
    Journal,
    /// Addresses are taken from their pools.
    Lease,
    /// Links are made, with the addresses and routes that they begin with, or removed, with all that is released then. Waiting for
    /// the lane is a part of it.
    Link,
    /// What is changed about links that are there: steps of a chain, rules of the packet filter, the default route.
    Address,
    /// The pod's status is written.
    Status,
}

impl Phase {
    /// All phases, in the order of an ADD.
    pub const ALL: [Self; 8] =
        [Self::Queue, Self::Pod, Self::Plan, Self::Journal, Self::Lease, Self::Link, Self::Address, Self::Status];

    /// Its word in metrics and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Pod => "pod",
            Self::Plan => "plan",
            Self::Journal => "journal",
            Self::Lease => "lease",
            Self::Link => "link",
            Self::Address => "address",
            Self::Status => "status",
        }
    }
}

/// Why a request executes a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Executed {
    /// plexus builds no such type.
    Type,
    /// plexus builds the type, but not as it is configured, or not on this node; or the node's configuration has it executed.
    Configuration,
    /// Addresses are asked of a plugin.
    Ipam,
    /// What only another program makes: a tap.
    Program,
    /// A record says that plugins were executed: they are to undo it.
    Record,
    /// What is to be removed has no record: whoever attached it may have been a plugin.
    NoRecord,
}

impl Executed {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Type, Self::Configuration, Self::Ipam, Self::Program, Self::Record, Self::NoRecord];

    /// Its word in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Configuration => "configuration",
            Self::Ipam => "ipam",
            Self::Program => "program",
            Self::Record => "record",
            Self::NoRecord => "no_record",
        }
    }
}
