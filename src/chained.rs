//! A step of a chain that plexus does itself on what steps before it attached: between results and backends. It knows neither
//! the plan nor the record.

use std::io;

use backends::chained::{self, Chained, Gain, Original, Previous, Remains, Scene, Spec};
use backends::nft::{Filter, Listed, Owner};
use backends::{Deleter, Deletion, Host, Pod};

use crate::cni::error::{CniError, Code};
use crate::cni::result::CniResult;
use crate::convert;
use crate::deleter;
use crate::journal::Step;
use crate::log::warn;
use crate::native::{self, Around, Failed, Verdict, from_backend};

/// What a step works on.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Whose attachment it is.
    pub owner: Owner<'a>,
    /// CNI_NETNS.
    pub sandbox: &'a str,
    /// The device group of the pod's links, where there are several.
    pub group: Option<u32>,
}

/// Does a step: `note` is told what was there before it is changed. Returns the result that comes after it.
///
/// # Errors
/// What the backend says; then nothing of the step stays, unless it is in doubt.
pub fn add(
    spec: &Spec,
    link: &Link,
    mut previous: CniResult,
    (host, pod): (&mut Host, &mut Pod),
    note: &mut dyn FnMut(&Original) -> Result<(), CniError>,
) -> Result<CniResult, Failed> {
    if spec.is_idle() {
        return Ok(previous);
    }
    if let Some(odd) = previous.interfaces.iter().find(|interface| interface.name.contains('\0')) {
        let msg = format!("prevResult names an interface {:?}, which no link can be called", odd.name);
        return Err(CniError::new(Code::InvalidConfig, msg).into());
    }
    let known = convert::previous(&previous);
    let mut scene = Scene { host, pod, owner: link.owner, previous: &known, group: link.group };
    let refused = |error| {
        let mut failed = Failed::from(error);
        // Go's plugin says it of every failure.
        if spec.chained() == Chained::Vrf {
            failed.error.msg = format!("cmdAdd failed: {}", failed.error.msg);
        }
        failed
    };
    // Nothing is changed by looking.
    let looked = spec.look(&mut scene).map_err(|error| Failed { is_in_doubt: false, ..refused(error) })?;
    if let Some(original) = looked.original() {
        note(&original)?;
    }
    let gain = looked.carry_out(&mut scene).map_err(refused)?;
    note_after(spec, &gain, note);
    convert::gain(&mut previous, link.owner.ifname, gain, link.sandbox);
    Ok(previous)
}

fn note_after(spec: &Spec, gain: &Gain, note: &mut dyn FnMut(&Original) -> Result<(), CniError>) {
    if let Some(original) = &gain.original
        && let Err(error) = note(original)
    {
        warn(&format!("{}: DEL will look for what it could find: {}", spec.chained().name(), error.msg));
    }
}

/// The rest of a step of which all that needs no link was done while that was made.
///
/// # Errors
/// What the backend says; what was done stays.
pub fn complete(
    spec: &Spec,
    owner: &Owner,
    previous: &CniResult,
    host: &mut Host,
    gain: Gain,
    note: &mut dyn FnMut(&Original) -> Result<(), CniError>,
) -> Result<(), CniError> {
    note_after(spec, &gain, note);
    spec.complete(host, owner, &convert::previous(previous)).map_err(from_backend)
}

/// Compares a step with the kernel, as far as others' checks have it with what is `listed`.
///
/// # Errors
/// What differs.
pub fn check(
    spec: &Spec,
    link: &Link,
    result: &CniResult,
    (host, pod): (&mut Host, &mut Pod),
    listed: &mut Listed,
) -> Result<(), CniError> {
    if spec.is_idle() {
        return Ok(());
    }
    let known = convert::previous(result);
    let mut scene = Scene { host, pod, owner: link.owner, previous: &known, group: link.group };
    spec.check(&mut scene, listed).map_err(from_backend)
}

/// What is known of a step that is to be removed.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Whose attachment it was.
    pub owner: Owner<'a>,
    /// The step.
    pub step: &'a Step,
    /// The surroundings of its configuration.
    pub around: Around<'a>,
    /// The attachment's result, where ADD had come that far.
    pub result: Option<&'a CniResult>,
    /// What was there before.
    pub original: Option<&'a Original>,
    /// The pod's interface lives on.
    pub link_stays: bool,
}

/// Removes what a step did. Its configuration need not be readable any more. What cannot be put back as it was is returned, to be
/// told: it keeps nothing from ending.
///
/// # Errors
/// What could not be removed.
pub fn remove(
    chained: Chained,
    known: &Known,
    filter: &mut Filter,
    pod: Option<&mut Pod>,
) -> Result<Vec<CniError>, CniError> {
    let spec = match native::read(&known.step.plugin, &known.step.conf, &known.around) {
        Ok(Verdict::Chained(spec, _)) => Some(spec),
        _ => None,
    };
    if spec.as_ref().is_some_and(|spec| spec.is_idle()) && known.original.is_none() {
        return Ok(Vec::new());
    }
    let spawn = |deletion: Deletion| -> io::Result<Box<dyn Deleter>> {
        Ok(Box::new(deleter::spawn(deletion.socket, &deletion.message, None)?))
    };
    let mut host = Host::open().map_err(from_backend)?;
    let previous: Option<Previous> = known.result.map(convert::previous);
    let mut remains = Remains {
        filter,
        host: &mut host,
        pod,
        owner: known.owner,
        previous: previous.as_ref(),
        spec: spec.as_deref(),
        original: known.original,
        link_stays: known.link_stays,
        spawn: Some(&spawn),
    };
    let told = chained::remove(chained, &mut remains).map_err(from_backend)?;
    Ok(told.into_iter().map(from_backend).collect())
}

/// After the links have gone: what two removals at once each left for the other.
///
/// # Errors
/// What could not be removed.
pub fn settle(step: &Step, around: &Around, filter: &mut Filter) -> Result<(), CniError> {
    // Of the others nothing is left: their configurations need not be read.
    if Chained::of(&step.plugin) != Some(Chained::Firewall) {
        return Ok(());
    }
    match native::read(&step.plugin, &step.conf, around) {
        Ok(Verdict::Chained(spec, _)) => chained::settle(&spec, filter).map_err(from_backend),
        _ => Ok(()),
    }
}
