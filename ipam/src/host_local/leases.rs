//! The leases of one pool, under its lock, found through the index where it is right and through one listing where it
//! is not. Knows owners and addresses, not ranges.

use super::Held;
use super::directory::{Absent, Directory, Hint, Lease, MAX_LEASE_BYTES};
use crate::index::{Broken, Index, Tables, content_hash};
use crate::number::{Number, address, file_name};
use crate::{Error, ErrorKind, Owner};
use std::path::{Path, PathBuf};

/// The hash under which stands what is nobody's lease: no content has it, short of a chance of 2^-64, and then the
/// content decides.
const NOBODY: u64 = 0x6e6f_626f_6479_0000;
/// How many addresses in a row may turn out to be taken although a listing did not have them.
const MAX_SURPRISES: u32 = 4096;

/// Where a pool is: its directory, and the index of it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    index: Index,
}

impl Place {
    pub(super) fn new(data_dir: &Path, network: &str, state_dir: &Path) -> Self {
        let path = data_dir.join(network);
        let index = Index::of(state_dir, &path);
        Self { path, index }
    }
}

/// What an owner's lease files contain: today's form, and the old one with the container id alone.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    pub(super) today: Vec<u8>,
    old: Vec<u8>,
}

impl Contents {
    pub(super) fn of(owner: &Owner<'_>) -> Result<Self, Error> {
        let id = owner.sandbox.trim();
        let today = format!("{id}\r\n{}", owner.ifname).into_bytes();
        let broken = |text: &str| text.contains(['\r', '\n']);
        let too_long = u64::try_from(today.len()).is_ok_and(|length| length > MAX_LEASE_BYTES);
        if id.is_empty() || broken(id) || broken(owner.ifname) || too_long {
            let text = "the owner of a lease needs a container id without line breaks".to_owned();
            return Err(Error::refused(ErrorKind::InvalidConfig, "naming an owner", owner.sandbox, text));
        }
        Ok(Self { today, old: id.as_bytes().to_vec() })
    }
}

/// A lease that this call made or removed: the index learns of it at the end.
#[derive(Debug, Clone, Copy)]
enum Change {
    Made(u64, Number),
    Removed(u64, Number),
}

/// The pool, locked.
#[derive(Debug)]
pub(super) struct Leases {
    directory: Directory,
    index: Index,
    /// `None` until it is known that there is no trusted index.
    tables: Option<Tables>,
    /// The tables come from a listing made by this call.
    fresh: bool,
    changes: Vec<Change>,
    /// This call changed the directory.
    touched: bool,
}

impl Leases {
    /// Locks the pool. `None`: there is no directory, and none was to be made.
    pub(super) fn open(place: &Place, absent: Absent) -> Result<Option<Self>, Error> {
        let Some(directory) = Directory::open(&place.path, absent)? else { return Ok(None) };
        let tables = directory.seen().and_then(|seen| place.index.open(&seen));
        let index = place.index.clone();
        Ok(Some(Self { directory, index, tables, fresh: false, changes: Vec::new(), touched: false }))
    }

    /// Lists the directory, and shows every lease with its content; one that a killed call left empty shows none.
    fn list(&mut self, mut each: impl FnMut(Number, Option<&[u8]>)) -> Result<(), Error> {
        let mut leases = Vec::new();
        self.directory.list(|at, lease| match lease {
            Lease::Held(content) => {
                each(at, Some(&content));
                leases.push((content_hash(&content), at));
            }
            Lease::Foreign => leases.push((NOBODY, at)),
            Lease::Empty => each(at, None),
            Lease::Absent => {}
        })?;
        let tables =
            Tables::build(&leases).ok_or_else(|| self.directory.unstable("more leases than can be indexed"))?;
        self.tables = Some(tables);
        self.fresh = true;
        // The listing has seen them.
        self.changes.clear();
        Ok(())
    }

    /// Asks the tables, which are built if there are none and once more if they are damaged.
    fn ask<T>(&mut self, question: impl Fn(&Tables) -> Result<T, Broken>) -> Result<T, Error> {
        if let Some(Ok(answer)) = self.tables.as_ref().map(&question) {
            return Ok(answer);
        }
        self.list(|_, _| {})?;
        let answer = self.tables.as_ref().and_then(|tables| question(tables).ok());
        answer.ok_or_else(|| self.directory.unstable("an index just built is damaged"))
    }

    /// The addresses whose lease has this content.
    fn with_content(&mut self, content: &[u8]) -> Result<Vec<Number>, Error> {
        let hash = content_hash(content);
        loop {
            let mut found = Vec::new();
            let mut surprise = false;
            for at in self.ask(|tables| tables.holders(hash))? {
                match self.directory.lease(at)? {
                    Lease::Held(held) if held == content => found.push(at),
                    Lease::Held(held) if content_hash(&held) == hash => {}
                    _ => surprise = true,
                }
            }
            if !surprise || self.fresh {
                return Ok(found);
            }
            self.list(|_, _| {})?;
        }
    }

    /// What the owner holds: its leases of today's form and, only if there is none, those of the old form.
    pub(super) fn held(&mut self, owner: &Contents) -> Result<Vec<Number>, Error> {
        let found = self.with_content(&owner.today)?;
        if found.is_empty() { self.with_content(&owner.old) } else { Ok(found) }
    }

    /// What the owner holds in either form, in the order in which a directory is walked.
    pub(super) fn held_in_any_form(&mut self, owner: &Contents) -> Result<Vec<Number>, Error> {
        let mut found = self.with_content(&owner.today)?;
        found.extend(self.with_content(&owner.old)?);
        found.sort_by_key(|at| file_name(*at));
        Ok(found)
    }

    /// Creates a lease; `false`: the address is taken. What a killed call left empty is free, and used.
    fn create(&mut self, at: Number, owner: &Contents) -> Result<bool, Error> {
        // The second round follows a removal, or meets what somebody without the lock did.
        for _ in 0..2 {
            let created = self.directory.create_lease(at, &owner.today);
            self.touched |= !matches!(created, Ok(false));
            if created? {
                self.changes.push(Change::Made(content_hash(&owner.today), at));
                return Ok(true);
            }
            match self.directory.lease(at)? {
                Lease::Empty => {
                    self.touched = true;
                    self.directory.remove_lease(at)?;
                }
                Lease::Absent => {}
                Lease::Held(_) | Lease::Foreign => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Takes exactly this address; `false`: it is taken.
    pub(super) fn take(&mut self, at: Number, owner: &Contents) -> Result<bool, Error> {
        let taken = self.create(at, owner)?;
        if !taken && !self.fresh && self.ask(|tables| tables.first_free(at, at))?.is_some() {
            // The index did not know, so it knows less than it should.
            self.list(|_, _| {})?;
        }
        Ok(taken)
    }

    /// Takes the first free address of these stretches, in their order. `None`: there is none, and a listing said so.
    pub(super) fn take_first(
        &mut self,
        stretches: &[(Number, Number)],
        owner: &Contents,
    ) -> Result<Option<Number>, Error> {
        loop {
            match self.try_first(stretches, owner)? {
                Some(at) => return Ok(Some(at)),
                None if self.fresh => return Ok(None),
                None => self.list(|_, _| {})?,
            }
        }
    }

    /// `None`: full, or the tables were wrong.
    fn try_first(&mut self, stretches: &[(Number, Number)], owner: &Contents) -> Result<Option<Number>, Error> {
        let mut surprises = 0;
        for &(low, high) in stretches {
            let mut from = low;
            while let Some(at) = self.ask(|tables| tables.first_free(from, high))? {
                if self.create(at, owner)? {
                    return Ok(Some(at));
                }
                if !self.fresh {
                    return Ok(None);
                }
                surprises += 1;
                if surprises > MAX_SURPRISES {
                    return Err(self.directory.unstable("addresses are taken without the pool's lock"));
                }
                match at.checked_add(1) {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        Ok(None)
    }

    /// Gives back an address that this call took.
    pub(super) fn give_back(&mut self, at: Number, owner: &Contents) -> Result<(), Error> {
        self.remove(at, content_hash(&owner.today))
    }

    fn remove(&mut self, at: Number, hash: u64) -> Result<(), Error> {
        self.touched = true;
        self.directory.remove_lease(at)?;
        self.changes.push(Change::Removed(hash, at));
        Ok(())
    }

    /// Releases everything the owner holds. Goes on after a failure, and reports the first.
    pub(super) fn release(&mut self, owner: &Contents) -> Result<Vec<Number>, Error> {
        let today = self.with_content(&owner.today)?;
        let (found, content) =
            if today.is_empty() { (self.with_content(&owner.old)?, &owner.old) } else { (today, &owner.today) };
        let hash = content_hash(content);
        self.remove_all(found.into_iter().map(|at| (at, hash)).collect())
    }

    fn remove_all(&mut self, leases: Vec<(Number, u64)>) -> Result<Vec<Number>, Error> {
        let mut released = Vec::new();
        let mut failure = None;
        for (at, hash) in leases {
            match self.remove(at, hash) {
                Ok(()) => released.push(at),
                Err(error) => _ = failure.get_or_insert(error),
            }
        }
        failure.map_or(Ok(released), Err)
    }

    /// Every lease with its owner.
    pub(super) fn all(&mut self) -> Result<Vec<Held>, Error> {
        let mut all = Vec::new();
        self.list(|at, content| {
            let text = String::from_utf8_lossy(content.unwrap_or_default());
            let (sandbox, ifname) = text.split_once('\n').unwrap_or((&text, ""));
            let (sandbox, ifname) = (sandbox.trim().to_owned(), ifname.trim().to_owned());
            all.push(Held { address: address(at), sandbox, ifname });
        })?;
        Ok(all)
    }

    /// Releases every lease whose owner is not valid. Reads every lease: which owners there are is not in the index.
    pub(super) fn retain(&mut self, valid: &dyn Fn(&Owner<'_>) -> bool) -> Result<Vec<Number>, Error> {
        let mut leaked = Vec::new();
        let mut empty = Vec::new();
        self.list(|at, content| {
            let Some(content) = content else { return empty.push(at) };
            let text = String::from_utf8_lossy(content);
            // The old form is the id alone.
            let (sandbox, ifname) = text.split_once('\n').unwrap_or((&text, ""));
            if !valid(&Owner { sandbox: sandbox.trim(), ifname: ifname.trim() }) {
                leaked.push((at, content_hash(content)));
            }
        })?;
        // Nobody's, and in no index: only the file goes.
        for at in empty {
            self.directory.remove_lease(at)?;
            self.touched = true;
        }
        self.remove_all(leaked)
    }

    /// How many addresses of each list of stretches are held.
    pub(super) fn used(&mut self, of: &[Vec<(Number, Number)>]) -> Result<Vec<u128>, Error> {
        self.ask(|tables| tables.used(of))
    }

    /// The last reserved address of a range set.
    pub(super) fn hint(&self, set: usize) -> Hint {
        self.directory.hint(set)
    }

    /// Writes down the last reserved address of a range set.
    pub(super) fn set_hint(&mut self, set: usize, hint: Hint, at: Number) -> Result<(), Error> {
        self.directory.set_hint(set, hint, at)
    }

    /// Tells the index what this call did, and gives the lock back. To be called however the call ended.
    ///
    /// Nothing here can fail the call: an index that could not be written is not trusted, and the next call lists.
    pub(super) fn finish(mut self) {
        if !self.touched && !self.fresh {
            return;
        }
        let Some(tables) = self.tables.take() else { return };
        if let Ok(tables) = applied(tables, &self.changes) {
            self.index.commit(&tables, || self.directory.stamp());
        }
    }
}

fn applied(mut tables: Tables, changes: &[Change]) -> Result<Tables, Broken> {
    for change in changes {
        if tables.is_crowded() {
            tables = tables.grown()?;
        }
        match *change {
            Change::Made(hash, at) => tables.insert(hash, at)?,
            Change::Removed(hash, at) => tables.remove(hash, at)?,
        }
    }
    Ok(tables)
}

/// Places on the line as addresses.
pub(super) fn addresses(places: Vec<Number>) -> Vec<std::net::IpAddr> {
    places.into_iter().map(address).collect()
}
