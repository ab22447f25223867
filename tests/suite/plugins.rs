//! Plugins of other people (`tests/plugins`): each works by itself, and with the plugins of both sides. That plexus
//! executes them as delegates is for the cases of the meta-plugin.

use std::path::Path;

use serde_json::json;

use crate::call::Side;
use crate::case::Case;
use crate::need::Need;
use crate::testbed::Testbed;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("plugins::newcomer", &[], newcomer),
        Case::new("plugins::newcomer_refuses", &[], newcomer_refuses),
        Case::new("plugins::flannel_like_with_go", &[Need::Peers], || flannel_like(Side::Go)),
        Case::new("plugins::flannel_like_with_plexus", &[], || flannel_like(Side::Plexus)),
    ]
}

/// Puts a plugin of `tests/plugins` among those of `side`.
pub(crate) fn install(bed: &Testbed, side: Side, name: &str) {
    bed.install(side, name, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins").join(name));
}

fn newcomer() {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, Side::Plexus, "newcomer");
    let conf = json!({"cniVersion": "1.0.0", "name": "new", "type": "newcomer", "address": "10.20.0.5/24"});
    let call = |command| bed.call(Side::Plexus, "newcomer").command(command).pod("a").conf(&conf).run();
    let result = call("ADD").ok();
    assert_eq!(result["ips"][0]["address"], "10.20.0.5/24");
    assert_eq!(result["interfaces"][0]["sandbox"], "/run/netns/a");
    call("CHECK").ok();
    call("DEL").ok();
    call("DEL").ok();
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

fn newcomer_refuses() {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, Side::Plexus, "newcomer");
    let conf = json!({"cniVersion": "1.0.0", "name": "new", "type": "newcomer"});
    bed.call(Side::Plexus, "newcomer").command("ADD").pod("a").conf(&conf).run().fails(7, "address is missing");
    assert_eq!(bed.leftovers(), Vec::<String>::new());
}

fn flannel_like(side: Side) {
    let bed = Testbed::new();
    bed.pod("a");
    install(&bed, side, "flannel-like");
    let conf = json!({"cniVersion": "1.0.0", "name": "flannel", "type": "flannel-like", "subnet": "10.42.3.0/24"});
    let call = |command| bed.call(side, "flannel-like").command(command).pod("a").conf(&conf).run();
    let result = call("ADD").ok();
    assert_eq!(result["ips"][0]["address"], "10.42.3.2/24");
    assert!(bed.ip("-n a route show").contains("10.42.0.0/16 via 10.42.3.1 dev eth0"));
    assert!(bed.ip("link show flannel0").contains("mtu 1450"));
    call("DEL").ok();
    call("DEL").ok();
    assert_eq!(bed.leftovers(), ["link flannel0"]);
}
