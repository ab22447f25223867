//! What differs on purpose between Multus and plexus. A difference by the number of Multus' defect is its; the others are
//! explained in `tests/k8s/README.md`.

use crate::compare::Difference;

const fn always(id: &'static str, cases: &'static [&'static str], facts: &'static [&'static str]) -> Difference {
    Difference { id, cases, facts, sometimes: false }
}

/// As far as it shows: in a case that fails early, or not at all.
const fn where_seen(id: &'static str, cases: &'static [&'static str], facts: &'static [&'static str]) -> Difference {
    Difference { id, cases, facts, sometimes: true }
}

/// Scenes in which Multus attaches something before it finds out that it cannot.
const LATE: &[&str] = &["*::a_type_that_is_missing", "*::an_interface_name_twice", "*::a_second_network_that_fails"];

pub(crate) const DIFFERENCES: &[Difference] = &[
    always("D1", &["*::the_default_route_moves"], &["1-add|pod.a.route.main.*"]),
    always("D2", &["*::isolated_default_network"], &["*"]),
    always("D5", &["*::the_cache_and_the_pod_are_gone_before_del"], &["2-del|*", "3-del-again|*"]),
    always("D16", &["*::the_status_is_refused"], &["*"]),
    always("D19", &["*::the_server_is_slow"], &["*"]),
    always("D22", &["*::the_kubeconfig_is_gone_before_del"], &["2-del|*", "3-del-again|*"]),
    always("D23", &["*::the_pod_is_gone_before_add"], &["1-add|answer", "1-add|result.*"]),
    where_seen("D33", &["*"], &["1-add|cache..c1"]),
    always("M1449", &["*::a_list_as_the_cluster_network"], &["2-del|*", "3-del-again|*"]),
    where_seen("S-default", &["*"], &["*|status.*.default"]),
    where_seen("S-default-route", &["*::the_default_route_moves"], &["*|status.*.default-route.*"]),
    where_seen("S-result-version", &["*"], &["1-add|result.cniVersion", "1-add|result.ips.*.version"]),
    where_seen("S-events", &["*"], &["1-add|event.FailedAddingInterface.*", "1-add|event.NoNetworkFound.*"]),
    always("S-nothing-begun", LATE, &["*|host.addr.cni0.*", "*|host.link.cni0.*", "1-add|event.AddedInterface.*"]),
    always(
        "S-delete-lenient",
        &["*thin::a_type_that_is_missing", "*thin::arguments_where_there_is_no_place"],
        &["2-del|answer", "3-del-again|answer"],
    ),
];
