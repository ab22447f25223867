//! What people give to `plexus validate`: any text, as a file, and as the configuration of a definition that a pod names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plexus::validate::{self, Settings, Text};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(settings) = Settings::of(Some(br#"{"namespaceIsolation": true, "allowedDelegates": ["a"]}"#), "default") else { return };
    let quoted = |text: &str| text.replace('\'', "''");
    let definition = format!(
        "apiVersion: k8s.cni.cncf.io/v1\nkind: NetworkAttachmentDefinition\nmetadata: {{name: a}}\nspec:\n  config: '{}'\n",
        quoted(text)
    );
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  annotations:\n    k8s.v1.cni.cncf.io/networks: '{}'\n",
        quoted(text)
    );
    for text in [text, &definition, &pod] {
        let lines = text.lines().count();
        let file = Text { name: "a".to_owned(), text: text.to_owned() };
        for finding in validate::check(&[file], &settings).findings {
            assert!(finding.line > 0 && finding.column > 0 && finding.line <= lines + 1, "{finding:?}");
        }
    }
});
