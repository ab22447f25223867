//! Random calls, foreign changes, damage and kills, against a model that knows no index and walks everything.

use proptest::prelude::*;

use super::kills::killed_after;
use super::trust::behind_its_back;
use super::*;

/// The sets of the model: ranges of (gateway, addresses in order).
type Sets = Vec<Vec<(String, Vec<String>)>>;

fn sets() -> (Value, Sets) {
    let section = json!({ "ranges": [
        [
            { "subnet": "10.0.0.0/29" },
            { "subnet": "10.0.1.0/29", "rangeStart": "10.0.1.4", "rangeEnd": "10.0.1.7", "gateway": "10.0.1.5" },
        ],
        [{ "subnet": "fd00::/64", "rangeStart": "fd00::ffd", "rangeEnd": "fd00::1003" }],
    ] });
    let run = |prefix: &str, low: u32, high: u32| (low..=high).map(|at| format!("{prefix}{at:x}")).collect();
    let sets = vec![
        vec![("10.0.0.1".into(), run("10.0.0.", 1, 6)), ("10.0.1.5".into(), run("10.0.1.", 4, 7))],
        vec![("fd00::1".into(), run("fd00::", 0xffd, 0x1003))],
    ];
    (section, sets)
}

/// The directory's files as the Go plugin sees them, with its mistakes corrected.
#[derive(Debug, Clone, Default)]
struct Model {
    files: BTreeMap<String, String>,
}

impl Model {
    fn with_content(&self, content: &str) -> Vec<String> {
        let leases = self.files.iter().filter(|(name, _)| name.parse::<IpAddr>().is_ok());
        leases.filter(|(_, text)| !text.is_empty() && text.trim() == content).map(|(name, _)| name.clone()).collect()
    }

    fn held(&self, id: &str, ifname: &str) -> Vec<String> {
        let today = self.with_content(&format!("{id}\r\n{ifname}"));
        if today.is_empty() { self.with_content(id) } else { today }
    }

    fn del(&mut self, id: &str, ifname: &str) {
        for name in self.held(id, ifname) {
            self.files.remove(&name);
        }
    }

    fn add(&mut self, sets: &Sets, id: &str, ifname: &str, asked: Option<&str>) -> Result<Vec<String>, ErrorKind> {
        let mut taken = Vec::new();
        for (index, set) in sets.iter().enumerate() {
            let asked = asked.filter(|asked| set.iter().any(|(_, ips)| ips.iter().any(|ip| ip == asked)));
            match self.add_from(set, index, id, ifname, asked) {
                Ok(name) => taken.push(name),
                Err(kind) => {
                    taken.iter().for_each(|name| _ = self.files.remove(name));
                    return Err(kind);
                }
            }
        }
        Ok(taken)
    }

    fn add_from(
        &mut self,
        set: &[(String, Vec<String>)],
        index: usize,
        id: &str,
        ifname: &str,
        asked: Option<&str>,
    ) -> Result<String, ErrorKind> {
        let content = format!("{id}\r\n{ifname}");
        let order: Vec<&String> = set.iter().flat_map(|(_, ips)| ips).collect();
        let gateways: Vec<&String> = set.iter().map(|(gateway, _)| gateway).collect();
        let mut held = self.with_content(&content);
        held.extend(self.with_content(id));
        let duplicate = held.iter().any(|name| order.contains(&name));
        let free = |ip: &str| self.files.get(ip).is_none_or(String::is_empty);
        let chosen = match asked {
            Some(ip) => {
                let gateway = gateways.iter().any(|gateway| *gateway == ip);
                if gateway || held.iter().any(|name| name == ip) {
                    return Err(ErrorKind::Unavailable(ip.parse().unwrap()));
                }
                if duplicate {
                    return Err(ErrorKind::Duplicate);
                }
                if !free(ip) {
                    return Err(ErrorKind::Unavailable(ip.parse().unwrap()));
                }
                ip.to_owned()
            }
            None if duplicate => return Err(ErrorKind::Duplicate),
            None => {
                let last = self.files.get(&format!("last_reserved_ip.{index}"));
                let start = last.and_then(|last| order.iter().position(|ip| *ip == last)).map_or(0, |at| at + 1);
                let turn = order.iter().cycle().skip(start).take(order.len());
                let found = turn.copied().find(|ip| !gateways.contains(ip) && free(ip));
                found.ok_or(ErrorKind::Exhausted)?.clone()
            }
        };
        self.files.insert(chosen.clone(), content);
        self.files.insert(format!("last_reserved_ip.{index}"), chosen.clone());
        Ok(chosen)
    }

    /// Makes the directory what the model is, by hand, with the lock.
    fn write_out(&self, ground: &Ground) {
        let _locked = directory::Directory::open(&ground.dir(), Absent::Create).unwrap();
        let real = ground.files();
        for name in real.keys().filter(|name| !self.files.contains_key(*name)) {
            fs::remove_file(ground.dir().join(name)).unwrap();
        }
        for (name, content) in &self.files {
            if real.get(name) != Some(content) {
                // As Go does: a lease is a new file, the last reserved address is written over.
                if !name.starts_with("last") {
                    _ = fs::remove_file(ground.dir().join(name));
                }
                fs::write(ground.dir().join(name), content).unwrap();
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Add { id: u8, ifname: u8, asked: Option<u8> },
    Del { id: u8, ifname: u8 },
    Check { id: u8, ifname: u8 },
    Retain { ids: u8 },
    Usage,
    GoAdd { id: u8, ifname: u8, set_back: bool },
    GoDel { id: u8, ifname: u8, set_back: bool },
    Plant { at: u8, content: u8, set_back: bool },
    Unlink { at: u8, set_back: bool },
    Hint { set: u8, at: u8 },
    Damage { at: u32, xor: u8 },
    Cut { length: u32 },
    Drop,
    Kill { after: u8, id: u8, del: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || (0u8..7, 0u8..2);
    let step = prop_oneof![
        6 => (who(), prop::option::weighted(0.2, any::<u8>())).prop_map(|((id, ifname), asked)| Step::Add { id, ifname, asked }),
        5 => who().prop_map(|(id, ifname)| Step::Del { id, ifname }),
        2 => who().prop_map(|(id, ifname)| Step::Check { id, ifname }),
        1 => any::<u8>().prop_map(|ids| Step::Retain { ids }),
        1 => Just(Step::Usage),
        2 => (who(), any::<bool>()).prop_map(|((id, ifname), set_back)| Step::GoAdd { id, ifname, set_back }),
        2 => (who(), any::<bool>()).prop_map(|((id, ifname), set_back)| Step::GoDel { id, ifname, set_back }),
        2 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(at, content, set_back)| Step::Plant { at, content, set_back }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(at, set_back)| Step::Unlink { at, set_back }),
        1 => (0u8..2, any::<u8>()).prop_map(|(set, at)| Step::Hint { set, at }),
        2 => (any::<u32>(), 1u8..).prop_map(|(at, xor)| Step::Damage { at, xor }),
        1 => any::<u32>().prop_map(|length| Step::Cut { length }),
        1 => Just(Step::Drop),
        3 => (0u8..20, 0u8..7, any::<bool>()).prop_map(|(after, id, del)| Step::Kill { after, id, del }),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    ground: Ground,
    section: Value,
    sets: Sets,
    names: Vec<String>,
    model: Model,
}

impl World {
    fn new() -> Self {
        let (section, sets) = sets();
        let mut names: Vec<String> = sets.iter().flatten().flat_map(|(_, ips)| ips.clone()).collect();
        names.push("10.7.7.7".into());
        Self { ground: Ground::new(), section, sets, names, model: Model::default() }
    }

    fn foreign(&mut self, set_back: bool, change: impl FnOnce(&mut Model)) {
        change(&mut self.model);
        let write = || self.model.write_out(&self.ground);
        if set_back && self.ground.dir().exists() { behind_its_back(&self.ground.dir(), write) } else { write() }
    }

    fn name(&self, at: u8) -> String {
        self.names[usize::from(at) % self.names.len()].clone()
    }

    fn run(&mut self, step: &Step) {
        let pool = self.ground.pool(&self.section);
        let word = |id: &u8, ifname: &u8| (format!("c{id}"), format!("eth{ifname}"));
        match step {
            Step::Add { id, ifname, asked } => {
                let (id, ifname) = word(id, ifname);
                let asked = asked.map(|at| self.names[usize::from(at) % (self.names.len() - 1)].clone());
                let pool = match &asked {
                    Some(ip) => self.ground.asking(&self.section, &[ip]),
                    None => pool,
                };
                let got = pool.add(&Owner { sandbox: &id, ifname: &ifname });
                let expected = self.model.add(&self.sets, &id, &ifname, asked.as_deref());
                assert_eq!(got.map(|got| ips(&got)).map_err(|error| error.kind()), expected);
            }
            Step::Del { id, ifname } => {
                let (id, ifname) = word(id, ifname);
                pool.del(&Owner { sandbox: &id, ifname: &ifname }).unwrap();
                self.model.del(&id, &ifname);
            }
            Step::Check { id, ifname } => {
                let (id, ifname) = word(id, ifname);
                let held = pool.held_by(&Owner { sandbox: &id, ifname: &ifname }).unwrap();
                let mut held: Vec<_> = held.iter().map(ToString::to_string).collect();
                held.sort();
                assert_eq!(held, self.model.held(&id, &ifname));
            }
            Step::Retain { ids } => {
                let valid = |id: &str| {
                    id.strip_prefix('c').and_then(|id| id.parse().ok()).is_some_and(|id: u8| ids >> id & 1 == 1)
                };
                let mut released: Vec<_> =
                    pool.retain(&|owner| valid(owner.sandbox)).unwrap().iter().map(ToString::to_string).collect();
                released.sort();
                let leaked = |name: &str, text: &str| {
                    name.parse::<IpAddr>().is_ok()
                        && !text.is_empty()
                        && !valid(text.trim().split("\n").next().unwrap().trim())
                };
                let expected: Vec<_> = self
                    .model
                    .files
                    .iter()
                    .filter(|(name, text)| leaked(name, text))
                    .map(|(name, _)| name.clone())
                    .collect();
                let is_empty_lease = |name: &str, text: &str| name.parse::<IpAddr>().is_ok() && text.is_empty();
                self.model.files.retain(|name, text| !leaked(name, text) && !is_empty_lease(name, text));
                assert_eq!(released, expected);
            }
            Step::Usage => {
                let used: Vec<u128> = pool.usage().unwrap().sets.iter().map(|set| set.used).collect();
                let count = |set: &Vec<(String, Vec<String>)>| {
                    let own = set.iter().flat_map(|(gateway, ips)| ips.iter().filter(move |ip| *ip != gateway));
                    own.filter(|ip| self.model.files.get(*ip).is_some_and(|text| !text.is_empty())).count() as u128
                };
                assert_eq!(used, self.sets.iter().map(count).collect::<Vec<_>>());
            }
            foreign => self.run_foreign(foreign),
        }
        assert_eq!(self.ground.files(), self.model.files, "{step:?}");
    }

    fn run_foreign(&mut self, step: &Step) {
        let word = |id: &u8, ifname: &u8| (format!("c{id}"), format!("eth{ifname}"));
        match step {
            Step::GoAdd { id, ifname, set_back } => {
                let ((id, ifname), sets) = (word(id, ifname), self.sets.clone());
                self.foreign(*set_back, |model| _ = model.add(&sets, &id, &ifname, None));
            }
            Step::GoDel { id, ifname, set_back } => {
                let (id, ifname) = word(id, ifname);
                self.foreign(*set_back, |model| model.del(&id, &ifname));
            }
            Step::Plant { at, content, set_back } => {
                let (name, id) = (self.name(*at), content / 8 % 7);
                let content = match content % 8 {
                    0 | 1 => String::new(),
                    2 | 3 => format!("c{id}"),
                    4 => format!(" c{id}\r\neth0\n"),
                    5 => "placeholder".to_owned(),
                    6 => format!("c{id}\neth0"),
                    _ => " ".to_owned(),
                };
                self.foreign(*set_back, |model| _ = model.files.insert(name, content));
            }
            Step::Unlink { at, set_back } => {
                let name = self.name(*at);
                self.foreign(*set_back, |model| _ = model.files.remove(&name));
            }
            Step::Hint { set, at } => {
                let (set, name) = (format!("last_reserved_ip.{set}"), self.name(*at));
                self.foreign(false, |model| _ = model.files.insert(set, name));
            }
            Step::Kill { after, id, del } => {
                let (pool, id) = (self.ground.pool(&self.section), format!("c{id}"));
                killed_after((*after).into(), || {
                    if *del { pool.del(&owner(&id)).unwrap() } else { _ = pool.add(&owner(&id)) }
                });
                let before = std::mem::replace(&mut self.model.files, self.ground.files());
                // Whatever it came to, it was about this owner's leases only.
                let mine =
                    |text: &String| text.is_empty() || text.trim() == id || text.trim() == format!("{id}\r\neth0");
                let others = |files: &BTreeMap<String, String>| -> Vec<_> {
                    files
                        .iter()
                        .filter(|(name, text)| !name.starts_with("last") && !mine(text))
                        .map(|(name, text)| (name.clone(), text.clone()))
                        .collect()
                };
                assert_eq!(others(&before), others(&self.model.files));
            }
            damage => self.damage(damage),
        }
    }

    fn damage(&self, step: &Step) {
        let Ok(mut folder) = fs::read_dir(self.ground.state().join("index")) else { return };
        let Some(index) = folder.next().map(|entry| entry.unwrap().path()) else { return };
        let mut bytes = fs::read(&index).unwrap();
        match step {
            Step::Damage { at, xor } if !bytes.is_empty() => {
                let at = *at as usize % bytes.len();
                bytes[at] ^= xor;
            }
            Step::Cut { length } => bytes.truncate(*length as usize % (bytes.len() + 1)),
            Step::Drop => return fs::remove_file(&index).unwrap(),
            _ => {}
        }
        fs::write(&index, &bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_pool_is_the_model(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
    }
}
