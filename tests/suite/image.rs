//! `deployments/image`: what is packed is what was named, every digest is that of its bytes, and the same programs give the same image. It
//! knows no runtime.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::case::Case;

const BILL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/sbom");
const DOCKERFILE: &str = include_str!("../../deployments/Dockerfile");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deployments/image");
const DAEMON_SET: &str = include_str!("../../deployments/base/daemon.yaml");

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("deploy::image::the_same_programs_are_the_same_image", &[], same),
        Case::new("deploy::image::each_digest_is_that_of_its_bytes", &[], digests),
        Case::new("deploy::image::what_is_no_program_is_refused", &[], refused),
        Case::new("deploy::image::the_bill_of_materials_is_what_is_linked", &[], materials),
        Case::new("deploy::image::without_a_bill_of_materials_there_is_none", &[], unbilled),
        Case::new("deploy::image::a_builder_makes_the_same_of_it", &[], builder),
    ]
}

/// A folder of the case's own with two programs.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("plexus-image-{name}-{}", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    for program in ["daemon", "cni"] {
        write(&folder.join(program), program);
    }
    folder
}

fn write(program: &Path, text: &str) {
    fs::write(program, format!("#!/bin/sh\necho {text}\n")).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o700)).unwrap();
}

fn build(folder: &Path, file: &str) -> Output {
    let programs = [folder.join("daemon"), folder.join("cni")];
    Command::new(SCRIPT).arg(folder.join(file)).args(programs).env("TMPDIR", folder).output().unwrap()
}

/// What a tool prints, which must work.
fn shell(folder: &Path, line: &str) -> String {
    let output = Command::new("sh").args(["-euc", line]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn same() {
    let folder = folder("same");
    let told = |file: &str| {
        let output = build(&folder, file);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (fs::read(folder.join(file)).unwrap(), output.stdout)
    };
    let first = told("one.tar");
    // Written again, at another time.
    write(&folder.join("daemon"), "daemon");
    assert!(first == told("two.tar"), "the bytes, and what is told of them");
    // Of another shell: what it has for others' work is not in the image.
    let other = "umask 077; mkdir 'of its own'; TMPDIR=\"$PWD/of its own\" TZ=Asia/Tokyo GZIP=-1 TAR_OPTIONS=--mode=700 \"$0\" 'of its own/image.tar' ./daemon ./cni";
    let output = Command::new("sh").args(["-euc", other, SCRIPT]).current_dir(&folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(first == (fs::read(folder.join("of its own/image.tar")).unwrap(), output.stdout), "another shell's");
    fs::remove_dir_all(folder.join("of its own")).unwrap();
    write(&folder.join("daemon"), "another");
    assert!(first != told("three.tar"));
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "two programs and three images: {left:?}");
    fs::remove_dir_all(folder).unwrap();
}

fn digests() {
    let folder = folder("digests");
    assert!(build(&folder, "image.tar").status.success());
    shell(&folder, "mkdir layout && tar -xf image.tar -C layout");
    let names = shell(
        &folder,
        "cd layout/blobs/sha256 && for blob in *; do echo \"$blob  $blob\"; done | sha256sum -c --quiet",
    );
    assert_eq!(names, "", "each is named by its content");
    let read =
        |path: &str| -> Value { serde_json::from_slice(&fs::read(folder.join("layout").join(path)).unwrap()).unwrap() };
    let path = |described: &Value| {
        let path = format!("blobs/{}", described["digest"].as_str().unwrap().replace(':', "/"));
        let size = fs::metadata(folder.join("layout").join(&path)).unwrap().len();
        assert_eq!(described["size"], size, "{path}");
        path
    };
    let index = read("index.json");
    let name = index["manifests"][0]["annotations"]["io.containerd.image.name"].as_str();
    assert_eq!(name, Some("docker.io/library/plexus:latest"), "what the manifests' `plexus:latest` means");
    let manifest = read(&path(&index["manifests"][0]));
    let config = read(&path(&manifest["config"]));
    let layer = path(&manifest["layers"][0]);
    let content = shell(&folder, &format!("gzip -dc layout/{layer} | sha256sum | cut -d' ' -f1"));
    assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{content}"));
    let listed = shell(&folder, &format!("tar -tvzf layout/{layer} --numeric-owner | grep -v '/$'"));
    let files: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let modes = ["-rwxr-xr-x", "-rw-r--r--", "lrwxr-xr-x"];
    assert!(files.iter().all(|file| modes.contains(&file[0]) && file[1] == "0/0"), "{listed}");
    let names: Vec<&str> = files.iter().map(|file| *file.last().unwrap()).collect();
    // A link is listed as what it leads to.
    let expected = [&["usr/bin/plexus"; 3][..], &["usr/bin/plexus-cni", "usr/share/plexus/sbom.spdx.json", "../run"]];
    assert_eq!(names, expected.concat());
    let set = plexus::yaml::documents(DAEMON_SET).unwrap().into_iter().find(|object| object["kind"] == "DaemonSet");
    let command = &set.unwrap()["spec"]["template"]["spec"]["containers"][0]["command"][0];
    assert_eq!(*command, config["config"]["Entrypoint"][0], "what the DaemonSet executes");
    shell(&folder, &format!("mkdir root && tar -xzf layout/{layer} -C root"));
    let started =
        shell(&folder, "root/usr/bin/plexus; root/usr/bin/plexus-cni; root/install_multus; root/thin_entrypoint");
    assert_eq!(started, "daemon\ncni\ndaemon\ndaemon", "what Multus' manifest executes is there, too");
    fs::remove_dir_all(folder).unwrap();
}

fn refused() {
    let folder = folder("refused");
    fs::remove_file(folder.join("cni")).unwrap();
    let output = build(&folder, "image.tar");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("cni is no program"), "{said}");
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["daemon"]);
    fs::remove_dir_all(folder).unwrap();
}

/// What the linked code says of where it comes from (its panics, its line tables) is in the bill; and nothing that only builds.
fn materials() {
    let output = Command::new(BILL).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Command::new(BILL).output().unwrap().stdout, output.stdout, "the same twice");
    let bill: Value = serde_json::from_slice(&output.stdout).unwrap();
    let linked = |program: &str| -> BTreeSet<String> {
        let id = format!("SPDXRef-program-{program}");
        let all = bill["relationships"].as_array().unwrap().iter();
        let own = all.filter(|link| link["relationshipType"] == "STATIC_LINK" && link["spdxElementId"] == id.as_str());
        own.map(|link| {
            let package = bill["packages"].as_array().unwrap().iter();
            let package = package.clone().find(|package| package["SPDXID"] == link["relatedSpdxElement"]).unwrap();
            format!("{}-{}", package["name"].as_str().unwrap(), package["versionInfo"].as_str().unwrap_or_default())
        })
        .collect()
    };
    let line = format!(
        r"LC_ALL=C grep -aoE 'registry/src/[^/]+/[A-Za-z0-9_-]+-[0-9][A-Za-z0-9.+-]*/' {} | sort -u",
        env!("CARGO_BIN_EXE_plexus")
    );
    let places = shell(Path::new("/"), &line);
    let crates = places.lines().map(|place| place.trim_end_matches('/').rsplit('/').next().unwrap().to_owned());
    let (crates, billed): (BTreeSet<String>, _) = (crates.collect(), linked("plexus"));
    assert!(crates.len() > 50, "{crates:?}");
    let unbilled: Vec<_> = crates.difference(&billed).collect();
    assert!(unbilled.is_empty(), "{unbilled:?}");
    let (daemon, cni) = (linked("plexus"), linked("plexus-cni"));
    let has = |all: &BTreeSet<String>, name: &str| all.iter().any(|known| known.starts_with(&format!("{name}-")));
    assert!(has(&daemon, "tokio") && has(&daemon, "rustls") && has(&daemon, "glibc") && has(&cni, "musl"));
    for absent in ["cc", "autocfg", "syn", "proc-macro2", "libtest-mimic", "version_check"] {
        assert!(!has(&daemon, absent) && !has(&cni, absent), "{absent} only builds");
    }
    assert!(!has(&cni, "tokio") && !has(&cni, "kube") && has(&cni, "nix"), "{cni:?}");
}

/// Whoever cannot say what is linked says so: a bill of nothing is none. Nor is there an image then.
fn unbilled() {
    let folder = folder("unbilled");
    write(&folder.join("cargo"), "nobody answers >&2; exit 101");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let output = Command::new(BILL).env("PATH", &path).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    let mut image = Command::new(SCRIPT);
    image.arg(folder.join("image.tar")).args([folder.join("daemon"), folder.join("cni")]);
    let output = image.env("TMPDIR", &folder).env("PATH", &path).output().unwrap();
    assert!(!output.status.success() && !folder.join("image.tar").exists());
    fs::remove_dir_all(folder).unwrap();
}

/// The Dockerfile's last image is what the script packs, with the same entry point.
fn builder() {
    let (_, last) = DOCKERFILE.rsplit_once("\nFROM ").unwrap();
    let lines: Vec<&str> = last.lines().collect();
    assert_eq!(lines[..2], ["scratch", "COPY --from=build /image/ /"]);
    assert!(
        DOCKERFILE.contains("deployments/image --files /image")
            && !DOCKERFILE.contains("amd64 ")
            && !DOCKERFILE.contains("x86")
    );
    assert!(lines.contains(&r#"ENTRYPOINT ["/usr/bin/plexus"]"#) && lines.contains(&"ENV PATH=/usr/bin"));
    let folder = folder("files");
    let programs = [folder.join("daemon"), folder.join("cni")];
    let mut script = Command::new("sh");
    script.args(["-c", "umask 077; exec \"$@\"", "-", SCRIPT, "--files"]).arg(folder.join("image")).args(programs);
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        shell(&folder, "find image ! -type l ! -perm 755 ! -name sbom.spdx.json"),
        "",
        "who runs it may read it"
    );
    let files = shell(&folder, "cd image && find . ! -type d | LC_ALL=C sort");
    let expected = [
        "./install_multus",
        "./thin_entrypoint",
        "./usr/bin/plexus",
        "./usr/bin/plexus-cni",
        "./usr/share/plexus/sbom.spdx.json",
        "./var/run",
    ];
    assert_eq!(files.lines().collect::<Vec<_>>(), expected);
    fs::remove_dir_all(folder).unwrap();
}
