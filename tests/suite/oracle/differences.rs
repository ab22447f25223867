//! Where plexus differs from the Go plugins on purpose, in the words of facts. `tests/oracle/DIFFERENCES.md` says why.

use std::collections::BTreeSet;

use crate::compare::Difference;

const BRIDGE: &str = "oracle::bridge::*";
const PTP: &str = "oracle::ptp::*";
const MACVLAN: &str = "oracle::macvlan::*";
const IPVLAN: &str = "oracle::ipvlan::*";
const VLAN: &str = "oracle::vlan::*";
const DUMMY: &str = "oracle::dummy::*";
const TAP: &str = "oracle::tap::*";
const HOST_DEVICE: &str = "oracle::host-device::*";

/// A difference must occur in every case that it names, or the case fails: a stale exception is found.
const fn always(id: &'static str, cases: &'static [&'static str], facts: &'static [&'static str]) -> Difference {
    Difference { id, cases, facts, sometimes: false }
}

/// A difference that follows from what a case happens to do, so that its cases cannot be named one by one.
const fn sometimes(id: &'static str, cases: &'static [&'static str], facts: &'static [&'static str]) -> Difference {
    Difference { id, cases, facts, sometimes: true }
}

/// Whose refusals name a type or a place in Go's source.
const GO_TYPES: &[&str] = &[
    "oracle::host-device::refused_decoding_device_id@*",
    "oracle::host-local::decoding_range_subnet_null@*",
    "oracle::host-local::decoding_route_destination_null@*",
    "oracle::host-local::decoding_subnet_null@*",
    "oracle::host-local::refused_decoding_args@*",
    "oracle::host-local::refused_decoding_args_cni@*",
    "oracle::host-local::refused_decoding_gateway@*",
    "oracle::host-local::refused_decoding_range_end@*",
    "oracle::host-local::refused_decoding_range_set@*",
    "oracle::host-local::refused_decoding_range_start@*",
    "oracle::host-local::refused_decoding_ranges@*",
    "oracle::host-local::refused_decoding_route@*",
    "oracle::host-local::refused_decoding_route_mtu@*",
    "oracle::host-local::refused_decoding_route_segment@*",
    "oracle::host-local::refused_decoding_runtime_ranges@*",
    "oracle::host-local::refused_decoding_subnet@*",
    "oracle::static::decoding_route_destination_null@*",
    "oracle::static::refused_decoding_args@*",
    "oracle::static::refused_decoding_route@*",
    "oracle::static::refused_decoding_route_mtu@*",
    "oracle::static::refused_decoding_route_segment@*",
    "*::refused_decoding_nested_too_deep@*",
];

const LAYER_2_OLD_VERSIONS: &[&str] = &[
    "*::layer_2@0.1.0",
    "*::layer_2@0.2.0",
    "*::no_container_interface@0.1.0",
    "*::no_container_interface@0.2.0",
    "*::no_container_interface_mtu@0.1.0",
    "*::no_container_interface_mtu@0.2.0",
    "*::dns_without_ipam@0.1.0",
    "*::dns_without_ipam@0.2.0",
    "oracle::macvlan::empty_ipam@0.1.0",
    "oracle::macvlan::empty_ipam@0.2.0",
    "oracle::macvlan::in_container_layer_2@0.1.0",
    "oracle::macvlan::in_container_layer_2@0.2.0",
    "oracle::macvlan::parent_down@0.1.0",
    "oracle::macvlan::parent_down@0.2.0",
    "oracle::tap::port_of_bridge@0.1.0",
    "oracle::tap::port_of_bridge@0.2.0",
];

const NULL_ENTRIES: &[&str] = &[
    "oracle::bridge::decoding_trunk_entry_null@*",
    "oracle::host-local::decoding_args_ip_null@*",
    "oracle::host-local::decoding_route_null@*",
    "oracle::host-local::decoding_runtime_ip_null@*",
    "oracle::static::decoding_route_null@*",
];

const STRICT_TEXT: &[&str] = &["*::decoding_nested_deep@*", "*::decoding_number_beyond_all_in_unknown_key@*"];

const KEYS_TWICE: &[&str] = &[
    "*::decoding_version_by_special_letter@*",
    "*::decoding_version_in_other_case@*",
    "oracle::bridge::decoding_name_in_other_case@*",
    "oracle::bridge::decoding_twice_args*",
    "oracle::bridge::decoding_twice_dns*",
    "oracle::bridge::decoding_twice_flag@*",
    "oracle::bridge::decoding_twice_ipam_nothing@*",
    "oracle::bridge::decoding_twice_ipam_null_behind@*",
    "oracle::bridge::decoding_twice_ipam_type@*",
    "oracle::bridge::decoding_twice_null_behind@*",
    "oracle::bridge::decoding_twice_other_case_behind@*",
    "oracle::bridge::decoding_twice_runtime@*",
    "oracle::host-local::decoding_name_in_other_case@*",
    "oracle::host-local::decoding_twice_asked_and_ranges@*",
    "oracle::host-local::decoding_twice_ipam*",
    "oracle::host-local::decoding_twice_key_in_ipam@*",
    "oracle::host-local::decoding_twice_ranges@*",
    "oracle::host-local::decoding_twice_routes@*",
    "oracle::static::decoding_twice_addresses@*",
    "oracle::static::decoding_twice_dns@*",
];

/// Each has its row on the page.
pub(crate) const ACCEPTED: &[Difference] = &[
    sometimes(
        "D-kernel-teardown",
        &["*::netns_lost@*", "*::masquerade_netns_lost@*", "*::filter_netns_lost@*"],
        &["*.del.state.host.*"],
    ),
    sometimes("D-error-version", &["*"], &["*.error.cniVersion"]),
    sometimes("D-queue-length", &[BRIDGE, PTP], &["*.host.link.veth(*.txqlen"]),
    sometimes(
        "D-bridge-mac",
        &[BRIDGE],
        &[
            "*.add.mac.*",
            "*.host.link.*.address",
            "*.bridge_id",
            "*.root_id",
            "*.host.addr.*.LL/64.*",
            "*.host.route.local.multicast ff00::/8 dev *",
            "*.host.route.main.unicast fe80::/64 dev *",
        ],
    ),
    sometimes("D-no-detection", &[BRIDGE, PTP, DUMMY], &["*.addr.*.nodad"]),
    sometimes(
        "D-optimistic",
        &[BRIDGE, PTP, MACVLAN, IPVLAN, VLAN, TAP, HOST_DEVICE],
        &[
            "*.pod.*.addr.*:*.nodad",
            "*.addr.*LL/64.nodad",
            "*.pod.*.optimistic",
            "*.pod.*.tentative",
            "*/optimistic_dad",
            "*/use_optimistic",
            "*.pod.*.route.local.local *:* dev *",
        ],
    ),
    sometimes("D-announced", &[BRIDGE, PTP, VLAN, HOST_DEVICE, TAP], &["*.pod.*/ndisc_notify", "*.pod.*/arp_notify"]),
    sometimes("D-no-connected-route", &[PTP], &["*.noprefixroute"]),
    always(
        "D-masquerade-backend",
        &["*::masquerade_backend_not_given@*"],
        &["*.add.state.host.nft.*", "*.del.state.host.nft.*"],
    ),
    always(
        "D-rules-go",
        &["*::masquerade_netns_lost@*", "*::filter_netns_lost@*"],
        &["*.del.state.host.nft.*", "end.leftovers"],
    ),
    always("D-on-link", &["oracle::ptp::dual_stack@*"], &["*.flags.onlink"]),
    sometimes("D-route-metrics", &["oracle::bridge::routes@*"], &["*.state.pod.a.route.*.metrics.*"]),
    sometimes("D-routes-old-versions", &["*::routes@0.1.0", "*::routes@0.2.0"], &["*.state.pod.a.route.*"]),
    always(
        "D-duplicate-routes",
        &[
            "oracle::bridge::two_default_routes@*",
            "oracle::bridge::refused_same_route_twice@*",
            "oracle::ptp::two_interfaces@*",
            "oracle::ptp::two_pods_pool@*",
            "oracle::ptp::refused_host_prefix@*",
        ],
        &["*"],
    ),
    always("D-layer-2-old-versions", LAYER_2_OLD_VERSIONS, &["*.state.*", "end.leftovers"]),
    always(
        "D-layer-2-check",
        &[
            "oracle::bridge::layer_2@0.4.0",
            "oracle::bridge::layer_2@1.*",
            "oracle::bridge::no_container_interface@0.4.0",
            "oracle::bridge::no_container_interface@1.*",
            "oracle::bridge::no_container_interface_mtu@*",
            "oracle::bridge::decoding_ipam_null@*",
            "oracle::bridge::decoding_ipam_type_null@*",
        ],
        &["*.check.*"],
    ),
    always(
        "D-no-master-check",
        &[
            "oracle::ipvlan::default_master@0.4.0",
            "oracle::ipvlan::default_master@1.*",
            "oracle::ipvlan::in_container_default_master@*",
            "oracle::ipvlan::after_another_checked@*",
        ],
        &["*.check.*"],
    ),
    always("D-check-all-tables", &["oracle::bridge::routes@0.4.0", "oracle::bridge::routes@1.*"], &["*.check.*"]),
    sometimes(
        "D-failed-add",
        &[
            "*::refused_*",
            "*::existing_*",
            "*::three_ranges*",
            "*::two_ranges@*",
            "*::protocol_environment_netns_*",
            "*::protocol_arguments_*",
            "*::decoding_ipam_null@*",
            "*::decoding_ipam_type_null@*",
            "*::name_taken_*",
            "*::add_netns_*",
            "oracle::loopback::other_address@*",
            "oracle::ipvlan::second_add@*",
            "oracle::tap::second_add@*",
        ],
        &["*.state.*", "end.leftovers"],
    ),
    always("D-failed-loopback", &["oracle::loopback::other_address@*"], &["*.check.*"]),
    always(
        "D-failed-order",
        &[
            "oracle::host-local::asked_outside@*",
            "oracle::host-local::asked_broadcast@*",
            "oracle::host-local::asked_before_start@*",
        ],
        &["*.file.*/last_reserved_ip.0"],
    ),
    sometimes(
        "D-delete-lenient",
        &[
            "*::refused_*",
            "*::decoding_ipam_null@*",
            "*::decoding_ipam_type_null@*",
            "*::decoding_master_null@*",
            "*::three_ranges*",
            "*::two_ranges@*",
            "*::protocol_arguments_*",
            "oracle::host-device::decoding_device_null@*",
            "oracle::host-local::directory_not_possible@*",
        ],
        &["*.del.rc", "*.del.stdout", "*.del.error.*"],
    ),
    always(
        "D-delete-no-namespace",
        &[
            "oracle::bridge::netns_no_namespace@*",
            "oracle::bridge::protocol_environment_netns_directory@*",
            "oracle::loopback::protocol_environment_netns_directory@*",
        ],
        &["*.del.rc", "*.del.stdout", "*.del.error.*", "*.del.state.*", "end.leftovers"],
    ),
    sometimes("D-delete-no-files", &["*"], &["*.file.*/lock"]),
    always(
        "D-delete-no-master",
        &["oracle::vlan::master_lost@*", "oracle::vlan::changed_master@*"],
        &["*.del.rc", "*.del.stdout", "*.del.error.*", "*.del.state.file.*", "end.leftovers"],
    ),
    always(
        "D-delete-no-interfaces",
        &["oracle::ipvlan::default_master@0.1.0", "oracle::ipvlan::default_master@0.2.0"],
        &["*.del.rc", "*.del.stdout", "*.del.error.*", "*.del.state.*", "end.leftovers"],
    ),
    always(
        "D-delete-no-device",
        &[
            "oracle::host-device::never_added@*",
            "oracle::host-device::deleted_again@*",
            "oracle::host-device::netns_lost@*",
            "oracle::host-device::add_netns_missing@*",
            "oracle::host-device::changed_link@*",
        ],
        &["*.del.rc", "*.del.stdout", "*.del.error.*", "*.del.state.file.*", "end.leftovers"],
    ),
    always(
        "D-device-stays-whole",
        &["oracle::host-device::its_name_is_taken_on_host@*"],
        &["3.del.state.*", "4.check.*"],
    ),
    always("D-device-alias", &["oracle::host-device::had_an_alias@*"], &["*.del.state.host.link.dev0.ifalias"]),
    always(
        "D-tap-properties",
        &["oracle::tap::owner_and_group_mtu_and_mac@*"],
        &["*.add.mac.*", "*.link.eth0.address", "*.link.eth0.mtu", "*.add.stdout"],
    ),
    always(
        "D-tap-order",
        &["oracle::tap::dual_stack@*"],
        &[
            "*.pod.a.addr.eth0.LL/64.*",
            "*.pod.a.route.local.multicast ff00::/8 dev eth0.*",
            "*.pod.a.route.main.unicast fe80::/64 dev eth0.*",
        ],
    ),
    always(
        "D-tap-words",
        &[
            "oracle::tap::refused_label@*",
            "oracle::tap::refused_mac@*",
            "oracle::tap::refused_mtu_negative@*",
            "oracle::tap::refused_mtu_too_small@*",
            "oracle::tap::refused_runtime_mac@*",
        ],
        &["*.add.error.msg"],
    ),
    always("D-tap-name", &["oracle::tap::refused_name_taken_in_pod@*"], &["*"]),
    always("D-dummy-routes", &["oracle::dummy::routes_looked_for@*"], &["*.check.*"]),
    always(
        "D-netns-not-given",
        &[
            "oracle::bridge::netns_not_given@*",
            "oracle::ptp::netns_not_given@*",
            "oracle::macvlan::netns_not_given@*",
            "oracle::ipvlan::netns_not_given@*",
            "oracle::vlan::netns_not_given@*",
            "oracle::dummy::netns_not_given@*",
            "oracle::host-device::netns_not_given@*",
            "oracle::tap::netns_not_given@*",
        ],
        &["*.del.state.*", "end.leftovers"],
    ),
    always("D-own-namespace", &["*::protocol_own_namespace@*"], &["*"]),
    always(
        "D-loopback-version",
        &[
            "oracle::loopback::plain@0.*",
            "oracle::loopback::any_interface_name@0.*",
            "oracle::loopback::second_add@0.*",
            "oracle::loopback::netns_lost@0.*",
            "oracle::loopback::netns_not_given@0.*",
        ],
        &["*.add.stdout"],
    ),
    always(
        "D-addresses-first",
        &[
            "oracle::bridge::second_add@*",
            "oracle::macvlan::second_add@*",
            "oracle::ipvlan::second_add@*",
            "oracle::vlan::second_add@*",
            "oracle::dummy::second_add@*",
        ],
        &["*.add.error.msg"],
    ),
    sometimes(
        "D-check-order",
        &[
            "oracle::bridge::three_ranges@*",
            "oracle::bridge::existing_other_address@*",
            "oracle::bridge::checked_without_prev_result@*",
            "*::protocol_previous_result_nonsense@*",
            "*::protocol_check_*",
            "*::decoding_*_null@*",
        ],
        &["*.check.error.msg"],
    ),
    sometimes(
        "D-check-words",
        &["*::changed_*", "oracle::ipvlan::after_another@*", "oracle::ipvlan::after_another_own_addresses@*"],
        &["*.check.error.msg"],
    ),
    always(
        "D-kernel-words",
        &[
            "oracle::bridge::refused_link_scope@*",
            "oracle::bridge::refused_route_unreachable_gateway@*",
            "oracle::bridge::refused_route_with_host_bits@*",
            "oracle::bridge::refused_mtu_too_small@*",
            "oracle::bridge::refused_bridge_name_too_long@*",
            "oracle::ipvlan::refused_mtu_too_large@*",
            "oracle::host-device::refused_device_cannot_move@*",
            "oracle::host-device::refused_route_unreachable_gateway@*",
        ],
        &["*.add.error.msg"],
    ),
    always("D-creation-told", &["oracle::ipvlan::refused_in_container_mtu_too_large@*"], &["*.add.error.msg"]),
    always(
        "D-names-the-link",
        &[
            "oracle::macvlan::refused_master_missing@*",
            "oracle::macvlan::refused_in_container_master_missing@*",
            "oracle::macvlan::refused_name_taken_in_pod@*",
            "oracle::macvlan::refused_passthru_twice@*",
            "oracle::macvlan::changed_parent@*",
            "oracle::ipvlan::refused_name_taken_in_pod@*",
            "oracle::vlan::refused_master_missing@*",
            "oracle::vlan::refused_in_container_master_missing@*",
            "oracle::vlan::refused_name_taken_in_pod@*",
            "oracle::vlan::refused_same_id_twice@*",
            "oracle::dummy::refused_name_taken_in_pod@*",
        ],
        &["*.error.msg"],
    ),
    always(
        "D-names-the-netns",
        &[
            "oracle::loopback::add_netns_missing@*",
            "oracle::loopback::protocol_environment_netns_directory@*",
            "oracle::loopback::protocol_environment_netns_file_missing@*",
            "oracle::macvlan::add_netns_missing@*",
            "oracle::dummy::add_netns_missing@*",
            "oracle::tap::add_netns_missing@*",
        ],
        &["*.add.error.msg"],
    ),
    always("D-no-gateway", &["oracle::ptp::refused_no_gateway@*"], &["*.add.error.msg"]),
    always("D-directory-words", &["oracle::host-local::directory_not_possible@*"], &["*.add.error.msg"]),
    always(
        "D-last-address",
        &["oracle::host-local::directory_last_with_newline@*"],
        &["*.add.stdout", "*.file.*", "end.leftovers"],
    ),
    always(
        "D-empty-lease",
        &["oracle::host-local::directory_empty_lease@*"],
        &["*.add.stdout", "*.file.*", "end.leftovers"],
    ),
    always(
        "D-only-leases",
        &["oracle::host-local::directory_sub_directory@*", "oracle::host-local::directory_other_files@*"],
        &["*"],
    ),
    always("D-one-address-each", &["oracle::host-local::asked_again_by_owner@*"], &["*"]),
    sometimes(
        "D-decoding-code",
        &[
            "*::refused_decoding_type@*",
            "*::refused_decoding_capabilit*",
            "*::refused_decoding_dns*",
            "*::refused_decoding_ipam@*",
            "*::refused_decoding_ipam_type@*",
            "oracle::bridge::refused_decoding_args@*",
            "*::refused_decoding_runtime@*",
        ],
        &["*.add.error.code", "*.add.error.msg"],
    ),
    always("D-control-name", &["*::protocol_environment_interface_control@*"], &["*"]),
    always("D-template-name", &["*::protocol_environment_interface_percent@*"], &["*"]),
    always(
        "D-no-path",
        &[
            "oracle::bridge::protocol_environment_path_missing@*",
            "oracle::bridge::protocol_environment_path_only_colons@*",
        ],
        &["*"],
    ),
    always(
        "D-mac-length",
        &[
            "oracle::bridge::protocol_arguments_mac_of_eight@*",
            "oracle::macvlan::protocol_arguments_mac_of_eight@*",
            "oracle::tap::protocol_arguments_mac_of_eight@*",
        ],
        &["*.error.*"],
    ),
    always("D-tap-mac-forms", &["oracle::tap::protocol_arguments_mac_with_d*"], &["*"]),
    always("D-number-spelling", &["*::refused_decoding_*_spelling@*"], &["*.add.error.code", "*.add.error.msg"]),
    always("D-go-types", GO_TYPES, &["*.add.error.msg", "*.del.error.msg"]),
    always("D-null-entries", NULL_ENTRIES, &["*"]),
    sometimes("D-previous-first", &["*::refused_decoding_prev_result*"], &["*"]),
    always("D-strict-text", STRICT_TEXT, &["*"]),
    always("D-keys-twice", KEYS_TWICE, &["*"]),
    sometimes("D-tuning-backup", &["oracle::tuning::*"], &["*.state.file.c1_eth0.json"]),
    sometimes("D-tuning-sysctls-back", &["oracle::tuning::*"], &["*.del.state.pod.a.sysctl.*"]),
    always("D-tuning-args-alone", &["oracle::tuning::sysctl_by_args_alone@*"], &["*"]),
    always("D-tuning-refusal", &["oracle::tuning::refused_mtu@*"], &["*.add.error.msg"]),
    always("D-tuning-backup-stays", &["oracle::tuning::lost_*"], &["*.state.file.*", "end.leftovers"]),
    always("D-tuning-twice", &["oracle::tuning::twice@*"], &["*.del.state.pod.a.link.eth0.*"]),
    always("D-chained-versions", &["oracle::firewall::old_version@*"], &["*"]),
    always(
        "D-firewall-isolation-ends",
        &["oracle::firewall::isolated@*", "oracle::firewall::same_bridge@*"],
        &["*.del.state.host.nft.* CNI-ISOLATION-*", "end.leftovers"],
    ),
    always("D-rules-once", &["oracle::firewall::twice@*", "oracle::portmap::twice@*"], &["*.state.host.nft.*"]),
    always(
        "D-portmap-maps",
        &["oracle::portmap::maps_*"],
        &["*.state.host.nft.ip* cni_hostport *", "*.state.host.nft.ip* plexus_portmap *", "end.leftovers"],
    ),
    always(
        "D-portmap-masq-all",
        &["oracle::portmap::masq_all@*"],
        &["*.add.state.host.nft.ip* cni_hostport masquerading.*"],
    ),
    sometimes("D-bandwidth-ends", &["oracle::bandwidth::*"], &["*.del.state.host.link.veth(pod.a/eth0).qdisc"]),
    sometimes("D-bandwidth-owner", &["oracle::bandwidth::*"], &["*.state.host.link.bwp*.ifalias"]),
    always("D-bandwidth-twice", &["oracle::bandwidth::twice@*"], &["*.add.*"]),
    sometimes("D-sbr-link-local", &["oracle::sbr::*"], &["*.state.pod.a.route.main.unicast fe80::/64 dev eth0.*"]),
    always(
        "D-vrf-addresses",
        &["oracle::vrf::first_free_table@*", "oracle::vrf::table@*", "oracle::vrf::lost_*"],
        &["*.state.pod.a.addr.eth0.*.nodad"],
    ),
    always(
        "D-vrf-routes-back",
        &["oracle::vrf::first_free_table@*", "oracle::vrf::table@*"],
        &["*.del.state.pod.a.route.main.unicast *"],
    ),
    always("D-vrf-link-gone", &["oracle::vrf::lost_link@*"], &["*.del.*", "end.leftovers"]),
    sometimes("D-sbr-ends", &["oracle::sbr::*"], &["*.del.state.pod.a.route.*", "*.del.state.pod.a.rule.*"]),
    always("D-sbr-namespace-file", &["oracle::sbr::lost_pod@*"], &["*.del.*", "end.leftovers"]),
    always("D-sbr-check", &["oracle::sbr::check_without_prev_result@*"], &["*"]),
];

/// The page has a row for each difference in the list above, and for no other.
pub(crate) fn are_written_down() {
    let page = include_str!("../../oracle/DIFFERENCES.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
    let written: BTreeSet<&str> = rows.filter(|id| id.starts_with("D-")).collect();
    let accepted: BTreeSet<&str> = ACCEPTED.iter().map(|difference| difference.id).collect();
    assert_eq!(written, accepted, "rows of DIFFERENCES.md (left) against the list in the code");
}
