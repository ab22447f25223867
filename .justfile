# Every task by one name; `just --list` shows them.

# Builds the two binaries as they are released.
build:
    cargo build --release

# Everything a change must pass.
test:
    tests/run

# Formatting and lints, as the tests demand them.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# The shop window: pods, networks, pings, and nothing left.
demo:
    cargo run --release -- demo

# Paired measurements against the Go plugins and the bare messages.
bench *ARGS:
    tests/bench/run {{ARGS}}

# Lets a fuzz target run: configuration, annotation, manifest, result, record. Needs a nightly compiler and cargo-fuzz.
fuzz TARGET *ARGS:
    cargo +nightly fuzz run --fuzz-dir tests/fuzz {{TARGET}} -- {{ARGS}}

# Licences, sources and double versions of what plexus is built from. Needs cargo-deny.
deny:
    cargo deny --config .deny.toml check licenses bans sources
