//! A running `ip -batch` in one namespace: a question is a line, its answer one line of JSON. Executing `ip` for each
//! question is most of what a case costs, above all in an emulated machine.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// Answers questions until it is dropped. It keeps its namespace alive.
pub(crate) struct Ip {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Ip {
    /// Starts it in the calling thread's network namespace, for one family of addresses (`-6`) or for all (no option).
    pub(crate) fn start(family: &[&str]) -> Self {
        let mut child = Command::new("ip")
            .args(family)
            .args(["-j", "-d", "-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("ip can be executed");
        let questions = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut ip = Self { child, questions, answers };
        if family.is_empty() {
            // iproute2 6 tells two values of a link in an answer about addresses only once it was asked for links.
            ip.list("link show");
        }
        ip
    }

    /// Asks something that `ip` cannot refuse: a list, of which the answer is an array.
    pub(crate) fn list(&mut self, question: &str) -> Vec<Value> {
        self.ask(question);
        self.answer()
    }

    /// Asks for links by their names, and throws the answers away. A link may be gone: there is no answer then, so
    /// a question whose answer is known follows.
    pub(crate) fn touch(&mut self, links: &[String]) {
        links.iter().for_each(|link| self.ask(&format!("link show dev {link}")));
        self.ask("rule show");
        while self.answer().first().is_none_or(|first| first.get("priority").is_none()) {}
    }

    fn ask(&mut self, question: &str) {
        writeln!(self.questions, "{question}").expect("ip listens");
    }

    fn answer(&mut self) -> Vec<Value> {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("ip answers in UTF-8");
        assert!(read > 0, "ip ended");
        // Without any object some lists are an empty line.
        if line.trim().is_empty() {
            Vec::new()
        } else {
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("ip: {error}: {line}"))
        }
    }
}

impl Drop for Ip {
    fn drop(&mut self) {
        // It holds nothing that needs an orderly end.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
