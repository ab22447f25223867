//! `plexus validate`: files of manifests -> findings, a row each. What is wrong is decided by `plexus::validate`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use plexus::sources;
use plexus::validate::{self, Finding, Level, Report, Settings, Text};

use super::failure::Failure;
use super::output::{Format, Out};
use super::table::{Table, or_none};

/// Of all files together: more than any repository of manifests has.
const BYTES_MAX: usize = 64 << 20;
/// Of standard input.
const INPUT_BYTES_MAX: u64 = 4 << 20;
/// Standard input, in the place of a file.
const INPUT: &str = "-";

/// Checks the files.
///
/// # Errors
/// One cannot be read; the configuration is none; a finding is an error.
pub(super) fn run(
    files: &[PathBuf],
    config: Option<&Path>,
    namespace: &str,
    output: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    let settings = settings(config, namespace)?;
    let mut read = Files::default();
    for path in files {
        read.all(path)?;
        if read.texts.iter().map(|text| text.text.len()).sum::<usize>() > BYTES_MAX {
            return Err(refuse(path, format!("with it the files have more than {BYTES_MAX} bytes")));
        }
    }
    let Files { texts, unreadable } = read;
    let report = validate::check(&texts, &settings).with(unreadable);
    match output {
        Format::Json => out.json(&report.findings)?,
        Format::Table if report.findings.is_empty() => {}
        Format::Table => out.text(&table(&report.findings))?,
    }
    let _ = writeln!(io::stderr(), "plexus: {}", summary(&report)); // nobody to tell
    match report.count(Level::Error) {
        0 => Ok(()),
        mistakes => Err(Failure::Invalid { mistakes }),
    }
}

fn refuse(path: &Path, why: String) -> Failure {
    Failure::Input { act: format!("reading {}", path.display()), why }
}

fn settings(config: Option<&Path>, namespace: &str) -> Result<Settings, Failure> {
    let place = config.unwrap_or_else(|| Path::new("the configuration"));
    let bytes = config.map(sources::read).transpose().map_err(|why| refuse(place, why))?;
    Settings::of(bytes.as_deref(), namespace).map_err(|e| refuse(place, e.to_string()))
}

/// What was read.
#[derive(Default)]
struct Files {
    texts: Vec<Text>,
    /// What could not be: it hides no other.
    unreadable: Vec<Finding>,
}

impl Files {
    /// A file, those of a directory, or standard input.
    fn all(&mut self, path: &Path) -> Result<(), Failure> {
        if path.as_os_str() == INPUT {
            let mut bytes = Vec::new();
            let input = io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut bytes);
            input.map_err(Failure::system("reading standard input"))?;
            if bytes.len() as u64 > INPUT_BYTES_MAX {
                return Err(refuse(path, format!("more than {INPUT_BYTES_MAX} bytes")));
            }
            self.take(path, bytes);
        } else if path.is_dir() {
            let files = sources::manifest_files(path).map_err(|e| refuse(path, e.to_string()))?;
            files.iter().for_each(|file| self.file(file));
        } else {
            // A name that is nobody's is a mistake of the command, not of a file.
            path.metadata().map_err(|e| refuse(path, e.to_string()))?;
            self.file(path);
        }
        Ok(())
    }

    fn file(&mut self, path: &Path) {
        match sources::read(path) {
            Ok(bytes) => self.take(path, bytes),
            Err(why) => {
                let what = format!("it cannot be read, and nothing of it is checked: {why}");
                let instead = "a regular file of a manifest's size, or none of this name";
                self.unreadable.push(Finding::unreadable(path.display().to_string(), (1, 1), what, instead));
            }
        }
    }

    fn take(&mut self, path: &Path, bytes: Vec<u8>) {
        let name = path.display().to_string();
        match String::from_utf8(bytes) {
            Ok(text) => self.texts.push(Text { name, text }),
            Err(e) => {
                let what = format!("it is not UTF-8, and nothing of it is checked: {}", e.utf8_error());
                let valid = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
                let valid = String::from_utf8_lossy(valid);
                let line = valid.rsplit('\n').next().unwrap_or_default();
                let place = (valid.matches('\n').count() + 1, line.chars().count() + 1);
                self.unreadable.push(Finding::unreadable(name, place, what, "the same text in UTF-8"));
            }
        }
    }
}

fn summary(report: &Report) -> String {
    let Report { definitions, pods, untold, .. } = report;
    let counts = [Level::Error, Level::Warning, Level::Note].map(|level| (report.count(level), level.word()));
    let counts: Vec<String> =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{word}s: {count}")).collect();
    let counts = if counts.is_empty() { "nothing is wrong".to_owned() } else { counts.join(", ") };
    let more = if *untold > 0 { format!(", and {untold} more") } else { String::new() };
    format!("{definitions} definition(s), {pods} pod(s): {counts}{more}")
}

fn table(findings: &[Finding]) -> String {
    let mut table = Table::new(["PLACE", "LEVEL", "OBJECT", "KEY", "FINDING"]);
    for finding in findings {
        let place = format!("{}:{}:{}", finding.file, finding.line, finding.column);
        let what = match finding.instead.as_str() {
            "" => finding.what.clone(),
            instead => format!("{}; write: {instead}", finding.what),
        };
        let cells = [place.as_str(), finding.level.word(), &finding.object, &finding.key, &what];
        table.row(cells.map(or_none));
    }
    table.render()
}
