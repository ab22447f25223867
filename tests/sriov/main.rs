//! Virtual functions of a real card, attached by the program that a runtime executes: what is set up, what comes back, and
//! that it comes back whatever happens.
//!
//! It works in the machine's first namespace, where the kernel gives a device back whose namespace has died, and takes all
//! functions of one card over. So it runs where it is told to (`PLEXUS_SRIOV=1`), as `tests/run vm` does in a machine of its own
//! with an emulated card (igb); elsewhere all cases are listed as ignored, with the reason.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic; clippy does not see that these are tests, for they have a harness of their own"
)]

#[path = "../suite/announcement.rs"]
mod announcement;
mod attach;
mod card;
mod choice;
mod cookbook;
mod crash;
mod daemon;
mod detach;
#[path = "../suite/daemon/supply/looks.rs"]
mod looks;
mod peer;
mod supply;
mod traffic;
mod user_space;
#[path = "../suite/daemon/supply/wire.rs"]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use card::Card;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test: its name and what it does with a card whose functions are all at home.
type Case = (&'static str, fn(&Card));

/// Whoever sets it lends a card.
const VARIABLE: &str = "PLEXUS_SRIOV";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // There is one card.
    arguments.test_threads = Some(1);
    let cases = [
        attach::CASES,
        detach::CASES,
        choice::CASES,
        cookbook::CASES,
        daemon::CASES,
        supply::CASES,
        crash::CASES,
        traffic::CASES,
        peer::CASES,
        user_space::CASES,
    ]
    .concat();
    let card = if arguments.list { Err("only listed".to_owned()) } else { find() };
    let trials = cases.into_iter().map(|(name, run)| match &card {
        Ok(card) => {
            let card = Arc::clone(card);
            Trial::test(name, move || on(&card, run))
        }
        Err(reason) => Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true),
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn find() -> Result<Arc<Card>, String> {
    if std::env::var_os(VARIABLE).is_none() {
        return Err(format!("takes a card with SR-IOV over, and {VARIABLE} is not set"));
    }
    Card::find().map(Arc::new)
}

/// Whatever a case does: afterwards every function is what it was, and nobody holds anything.
fn on(card: &Card, run: fn(&Card)) -> Result<(), Failed> {
    let before = card.state();
    let ran = catch_unwind(AssertUnwindSafe(|| {
        run(card);
        assert_eq!(card.left(), Vec::<String>::new(), "left over");
        card.assert_state(&before, "after all");
    }));
    card.tidy();
    if ran.is_err() {
        // What a failure left is not what the next case finds.
        card.renew(|| ());
    }
    ran.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Failed::from(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned()))
    })
}
