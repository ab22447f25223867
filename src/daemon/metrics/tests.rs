//! What is recorded is what is read, under the names of the table, in a bounded number of series.

use std::collections::BTreeSet;

use super::table::{TABLE, Values, page};
use super::*;

/// Metrics in which every series is that can be without a request's words.
fn full() -> Metrics {
    let metrics = Metrics::new();
    let millisecond = Duration::from_millis(1);
    for verb in VERBS {
        Outcome::ALL.iter().for_each(|outcome| metrics.request(verb, *outcome, millisecond));
        Phase::ALL.iter().for_each(|phase| metrics.phase(verb, *phase, millisecond));
    }
    Kind::ALL.iter().for_each(|kind| metrics.attachment(Some(*kind), millisecond));
    metrics.attachment(None, millisecond);
    Refusal::ALL.iter().for_each(|reason| metrics.refused(*reason));
    Executed::ALL.iter().for_each(|reason| metrics.given_back(*reason));
    for what in Finding::ALL {
        Became::ALL.iter().for_each(|became| metrics.finding(*what, *became));
    }
    for cache in Cache::ALL {
        metrics.cache_asked(*cache, 1, 1);
        metrics.known(*cache, 1000);
    }
    for verb in ApiVerb::ALL {
        ApiOutcome::ALL.iter().for_each(|outcome| metrics.api_calls(*verb, *outcome, 1));
    }
    for handler in ShimHandler::ALL {
        ShimCode::ALL.iter().for_each(|code| metrics.shim(*handler, *code, ShimMethod::Post));
    }
    ShimMethod::ALL.iter().for_each(|method| metrics.shim(ShimHandler::Cni, ShimCode::Ok, *method));
    metrics.kernel_error(Errno::EEXIST);
    metrics.requests(3, 5);
    metrics.statuses_waiting(2);
    metrics.statuses_failed(1);
    metrics.journal(4, 4096);
    metrics.pools([Fill { network: "storage", held: 7, free: 247 }]);
    metrics
}

/// The value of a series, written as in the text.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// The labels of a sample's line, without a bucket's bound.
fn labels(line: &str) -> Vec<(&str, &str)> {
    let inside = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inside, _)| inside);
    let pairs = inside.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name, value.trim_matches('"'))).filter(|(name, _)| *name != "le").collect()
}

#[test]
fn the_text_is_what_the_table_says() {
    let text = full().text().unwrap();
    assert!(text.ends_with("# EOF\n"));
    for row in TABLE {
        let name = row.name();
        let family = name.trim_end_matches("_total");
        assert!(text.contains(&format!("# TYPE {family} {}\n", row.shape.word())), "{name}: {text}");
        assert!(text.contains(&format!("# HELP {family} {}.\n", row.help)), "{name}");
        assert_eq!(text.contains(&format!("# UNIT {family} ")), row.unit.is_some(), "{name}");
        let is_of_it = |line: &&str| {
            let rest = line.strip_prefix(&name).map(|rest| rest.trim_start_matches("_bucket"));
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        let samples: Vec<&str> = text.lines().filter(is_of_it).collect();
        assert!(!samples.is_empty(), "{name}");
        for (index, (label, values)) in row.labels.iter().enumerate() {
            let found: BTreeSet<&str> = samples.iter().map(|line| labels(line)[index].1).collect();
            assert!(samples.iter().all(|line| labels(line)[index].0 == *label), "{name}");
            if let Values::Closed(words) = values {
                assert_eq!(found, words().into_iter().collect(), "{name} {label}");
            }
        }
        assert!(samples.iter().all(|line| labels(line).len() == row.labels.len()), "{name}");
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(types, TABLE.len());
}

#[test]
fn what_is_recorded_is_read() {
    let metrics = full();
    metrics.request(Command::Add, Outcome::Done, Duration::from_millis(3));
    metrics.request(Command::Add, Outcome::Done, Duration::from_secs(31));
    metrics.kernel_error(Errno::EEXIST);
    let text = metrics.text().unwrap();
    let bucket =
        |bound| value(&text, &format!("plexus_request_seconds_bucket{{le=\"{bound}\",verb=\"ADD\",outcome=\"done\"}}"));
    assert_eq!(bucket("0.00075"), Some(0.0), "{text}");
    assert_eq!(bucket("0.001"), Some(1.0));
    assert_eq!(bucket("0.002"), Some(1.0));
    assert_eq!(bucket("0.003"), Some(2.0));
    assert_eq!(bucket("30.0"), Some(2.0));
    assert_eq!(bucket("+Inf"), Some(3.0));
    assert_eq!(value(&text, "plexus_kernel_errors_total{errno=\"EEXIST\"}"), Some(2.0));
    assert_eq!(value(&text, "plexus_requests_waiting"), Some(5.0));
    assert_eq!(value(&text, "plexus_cache_objects{cache=\"definition\"}"), Some(1000.0));
    assert_eq!(value(&text, "plexus_journal_bytes"), Some(4096.0));
    assert_eq!(value(&text, "plexus_leases_free{network=\"storage\"}"), Some(247.0));
    let memory = value(&text, "process_resident_memory_bytes").unwrap();
    assert!((1e6..1e10).contains(&memory), "{memory}");
}

#[test]
fn bounds_are_in_order_and_reach_from_a_quarter_of_a_millisecond_to_half_a_minute() {
    for buckets in [&REQUEST_SECONDS_BUCKETS[..], &PHASE_SECONDS_BUCKETS[..]] {
        assert!(buckets.is_sorted_by(|a, b| a < b), "{buckets:?}");
        assert_eq!(buckets.last(), Some(&30.0));
    }
    assert_eq!(REQUEST_SECONDS_BUCKETS.first(), Some(&0.00025));
}

#[test]
fn an_errno_without_a_name_is_one_series() {
    let metrics = Metrics::new();
    for raw in 500..2000 {
        metrics.kernel_error(Errno::from_raw(raw));
    }
    let text = metrics.text().unwrap();
    assert_eq!(value(&text, "plexus_kernel_errors_total{errno=\"other\"}"), Some(1500.0), "{text}");
}

#[test]
fn networks_are_bounded_and_the_rest_is_one_series() {
    let metrics = Metrics::new();
    let names: Vec<String> = (0..1000).rev().map(|number| format!("net{number:04}")).collect();
    let long = "n".repeat(NETWORK_BYTES_MAX + 1);
    let odd = [OTHER, long.as_str()];
    let all = names.iter().map(String::as_str).chain(odd).map(|network| Fill { network, held: 1, free: 2 });
    metrics.pools(all);
    let text = metrics.text().unwrap();
    let series = text.lines().filter(|line| line.starts_with("plexus_leases_held{")).count();
    assert_eq!(series, NETWORKS_MAX + 1);
    assert_eq!(value(&text, "plexus_leases_held{network=\"net0099\"}"), Some(1.0));
    assert_eq!(value(&text, "plexus_leases_held{network=\"net0100\"}"), None);
    assert_eq!(value(&text, "plexus_leases_held{network=\"other\"}"), Some(902.0));
    assert_eq!(value(&text, "plexus_leases_free{network=\"other\"}"), Some(1804.0));
}

#[test]
fn pools_of_one_network_are_added_up_and_what_is_gone_is_gone() {
    let metrics = Metrics::new();
    let big = Fill { network: "v6", held: 1, free: u128::MAX };
    metrics.pools([Fill { network: "a\"b\\\n", held: 1, free: 3 }, big, big]);
    let text = metrics.text().unwrap();
    assert_eq!(value(&text, "plexus_leases_held{network=\"v6\"}"), Some(2.0));
    assert_eq!(value(&text, "plexus_leases_free{network=\"v6\"}"), Some(u128::MAX as f64), "{text}");
    assert_eq!(value(&text, r#"plexus_leases_free{network="a\"b\\\n"}"#), Some(3.0), "{text}");
    metrics.pools([]);
    assert!(!metrics.text().unwrap().contains("v6"));
}

#[test]
fn the_page_has_a_row_for_each_metric_and_no_text_breaks_its_tables() {
    let page = page();
    for row in TABLE {
        assert!(page.contains(&format!("| `{}` | {} |", row.name(), row.shape.word())), "{}", row.name());
        assert!(!row.help.contains('|') && !row.help.ends_with('.'), "{}", row.name());
    }
}
