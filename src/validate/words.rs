//! What people are told to write instead: the nearest known word, and what is right for a key. Suggestions only: what is refused
//! is decided by the parsers, and a word is suggested only if they take it.

/// Keys of configurations that plexus builds, for suggestions.
pub(super) const KEYS: [&str; 91] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "ipam",
    "dns",
    "args",
    "capabilities",
    "runtimeConfig",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
    "plugins",
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "ipMasq",
    "ipMasqBackend",
    "mtu",
    "hairpinMode",
    "promiscMode",
    "vlan",
    "vlanTrunk",
    "minID",
    "maxID",
    "id",
    "preserveDefaultVlan",
    "macspoofchk",
    "enabledad",
    "portIsolation",
    "disableContainerInterface",
    "master",
    "mode",
    "mac",
    "linkInContainer",
    "bcqueuelen",
    "vlanId",
    "multiQueue",
    "owner",
    "group",
    "selinuxContext",
    "device",
    "hwaddr",
    "kernelpath",
    "pciBusID",
    "DPDKMode",
    "deviceID",
    "pf",
    "vlanQoS",
    "vlanProto",
    "spoofchk",
    "trust",
    "min_tx_rate",
    "max_tx_rate",
    "link_state",
    "optional",
    "driver",
    "logLevel",
    "logFile",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "ranges",
    "routes",
    "dst",
    "gw",
    "resolvConf",
    "dataDir",
    "addresses",
    "address",
    "nameservers",
    "domain",
    "search",
    "options",
    "sysctl",
    "promisc",
    "allmulti",
    "txQLen",
    "backend",
    "snat",
    "conditionsV4",
    "conditionsV6",
    "masqAll",
    "markMasqBit",
    "externalSetMarkChain",
    "layout",
    "ingressPolicy",
    "firewalldZone",
    "iptablesAdminChainName",
];

/// What may follow for a key. The refusal has said what is wrong.
const RIGHT: [(&str, &str); 35] = [
    ("mtu", "a number from 68 to 65535; 0, or none: that of the lower device"),
    ("vlan", "a number from 0 to 4094"),
    ("vlanId", "a number from 1 to 4094"),
    ("minID", "a number from 1 to 4094"),
    ("maxID", "a number from 1 to 4094"),
    ("cniVersion", "\"1.0.0\"; any of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
    ("cniVersions", "a list with one of 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"),
    ("subnet", "a network, as \"10.1.0.0/16\""),
    ("rangeStart", "an address of the subnet, not behind rangeEnd"),
    ("rangeEnd", "an address of the subnet, not before rangeStart"),
    ("gateway", "an address of the subnet"),
    ("dst", "a network, as \"0.0.0.0/0\""),
    ("gw", "an address"),
    ("address", "an address with its prefix, as \"10.1.0.7/16\""),
    ("mac", "six bytes of one host, as \"02:00:00:00:00:01\""),
    ("infiniband-guid", "eight bytes, as \"c2:11:22:33:44:55:66:77\""),
    ("ips", "addresses of the network's ranges, with or without prefix"),
    ("interface", "a name of at most 15 characters that nothing else in the pod has"),
    ("hostPort", "a number from 1 to 65535 that no other mapping has"),
    ("containerPort", "a number from 1 to 65535"),
    ("protocol", "\"tcp\", \"udp\" or \"sctp\""),
    ("default-route", "one gateway of each family, and in one network only"),
    ("deviceID", "nothing: the pod gets the device that its container's resources were given"),
    (
        "mode",
        "a mode of the plugin; macvlan: \"bridge\", \"private\", \"vepa\", \"passthru\"; ipvlan: \"l2\", \"l3\", \"l3s\"",
    ),
    ("pf", "the name of a card's own interface, or its PCI address, or a list of these"),
    ("vlanQoS", "a number from 0 to 7, with a vlan that is not 0"),
    ("vlanProto", "\"802.1q\" or \"802.1ad\", with a vlan"),
    ("spoofchk", "\"on\" or \"off\"; none: it is left as it is"),
    ("trust", "\"on\" or \"off\"; none: it is left as it is"),
    ("min_tx_rate", "a number of Mbit/s that is not more than max_tx_rate; 0: none"),
    ("max_tx_rate", "a number of Mbit/s that is not less than min_tx_rate; 0: none"),
    ("link_state", "\"auto\", \"enable\" or \"disable\""),
    ("driver", "\"netdev\" or \"vfio-pci\""),
    ("optional", "a list of \"spoofchk\", \"trust\", \"min_tx_rate\", \"max_tx_rate\", \"link_state\", \"mtu\""),
    ("plugins", "at least one plugin: [{\"type\": ...}]"),
];

/// What is right for a key, where one answer is right for all of its mistakes.
pub(super) fn right_for(key: &str) -> &'static str {
    RIGHT.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)).map_or("", |(_, text)| text)
}

/// The same for a refusal, whatever the key.
pub(super) fn of_refusal(why: &str) -> &'static str {
    const PARTS: [(&str, &str); 11] = [
        ("overlap", "ranges that have no address in common"),
        ("prevResult", "a plugin before it in a list: it changes what others made"),
        ("called as", "a plugin before it in a list: it changes what others made"),
        (" of type string", "a text, in quotation marks"),
        (" of type bool", "true or false, without quotation marks"),
        (" of type int", "a number, without quotation marks"),
        (" of type uint", "a number that is not negative, without quotation marks"),
        ("missing 'type'", "\"type\": and the plugin's name"),
        ("allowedDelegates does not list it", "a type that the node's allowedDelegates lists"),
        ("no name", "\"name\": and the network's name"),
        ("no plugins in list", "at least one plugin: [{\"type\": ...}]"),
    ];
    PARTS.iter().find(|(part, _)| why.contains(part)).map_or("", |(_, text)| text)
}

/// What to do about text that is no JSON, by the words of the parser.
pub(super) fn of_json(why: &str) -> &'static str {
    const PARTS: [(&str, &str); 8] = [
        ("after object key:value pair", "a comma before it, or the missing }"),
        ("after array element", "a comma before it, or the missing ]"),
        ("after object key", "a colon between key and value"),
        ("'\\''", "\" in the place of '"),
        ("looking for beginning of object key string", "a key in \"; no comma before }"),
        ("looking for beginning of value", "a value: a text in \", a number, true, false, {} or []; no comma before ]"),
        ("after top-level value", "nothing after the last }"),
        ("unexpected end of JSON input", "the missing \", } or ]"),
    ];
    PARTS.iter().find(|(part, _)| why.contains(part)).map_or("", |(_, text)| text)
}

/// What to do about text that is no YAML.
pub(super) fn of_yaml(why: &str) -> &'static str {
    if why.contains("tab") { "blanks in the place of the tab" } else { "" }
}

/// The known word that is nearest, if one is near enough to have been meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    near(word, known).into_iter().next()
}

/// All that are near enough, the nearest first.
pub(super) fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let near = |known: &str| distance(word, known).filter(|distance| *distance <= allowed(word));
    let others = known.into_iter().filter(|known| *known != word);
    let mut rated: Vec<(usize, &str)> = others.filter_map(|known| Some((near(known)?, known))).collect();
    rated.sort_by_key(|(distance, _)| *distance);
    rated.into_iter().map(|(_, known)| known).collect()
}

/// Mistakes that a word may have and still be recognised: one in three characters, about, and two.
fn allowed(word: &str) -> usize {
    ((word.chars().count() + 1) / 3).min(2)
}

/// Words that are longer are not compared.
const WORD_CHARS_MAX: usize = 64;

/// Characters to insert, delete, replace or swap with their neighbour; case counts nothing. None: one is too long.
fn distance(a: &str, b: &str) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) =
        (a.to_lowercase().chars().take(WORD_CHARS_MAX + 1).collect(), b.to_lowercase().chars().collect());
    if a.len() > WORD_CHARS_MAX || b.len() > WORD_CHARS_MAX {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let get = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut least = (get(&row, j) + usize::from(x != y)).min(get(&row, j + 1) + 1).min(get(&next, j) + 1);
            let is_swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if is_swapped {
                least = least.min(get(&before, j - 1) + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let of = |word| nearest(word, KEYS);
        assert_eq!(of("mut"), Some("mtu"));
        assert_eq!(of("matser"), Some("master"));
        assert_eq!(of("rangestrat"), Some("rangeStart"));
        assert_eq!(of("isGatway"), Some("isGateway"));
        assert_eq!(of("subnets"), Some("subnet"));
        assert_eq!((of("flavour"), of("x"), of("")), (None, None, None));
        assert_eq!(of(&"a".repeat(5000)), None);
    }
}
