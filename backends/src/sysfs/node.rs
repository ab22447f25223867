//! Which NUMA node a processor is of (Documentation/admin-guide/mm/numaperf.rst; cpulist of drivers/base/node.c). Reads only.

use std::collections::BTreeSet;

use super::{Sysfs, names, read};

/// The NUMA nodes of the machine.
const NODES: &str = "devices/system/node";
/// More processors than any machine has (NR_CPUS, arch/x86/Kconfig).
pub const PROCESSORS_MAX: u32 = 8192;

impl Sysfs {
    /// The NUMA nodes that these processors are of; none where the machine has none.
    #[must_use]
    pub fn nodes_of(&self, processors: &BTreeSet<u32>) -> BTreeSet<u32> {
        let directory = self.root.join(NODES);
        let nodes = names(&directory);
        let nodes = nodes.iter().filter_map(|name| Some((name, name.strip_prefix("node")?.parse().ok()?)));
        let has_one = |name: &String| {
            let list = read(&directory.join(name).join("cpulist")).ok().and_then(|text| processors_of(&text));
            list.is_some_and(|list| !list.is_disjoint(processors))
        };
        nodes.filter(|(name, _)| has_one(name)).map(|(_, node)| node).collect()
    }
}

/// The processors of a list as the kernel writes it, "0-3,8"; none where it is no such list.
#[must_use]
pub fn processors_of(text: &str) -> Option<BTreeSet<u32>> {
    let mut processors = BTreeSet::new();
    // The kernel writes each once.
    let mut count: u32 = 0;
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= PROCESSORS_MAX {
            return None;
        }
        count += last - first + 1;
        if count > PROCESSORS_MAX {
            return None;
        }
        processors.extend(first..=last);
    }
    Some(processors)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::Tree;
    use super::*;

    #[test]
    fn a_processor_is_of_its_node() {
        let tree = Tree::new("nodes");
        for (node, list) in [("node0", "0-1,4\n"), ("node1", "2-3,5\n"), ("node2", "\n"), ("has_cpu", "0-5\n")] {
            fs::create_dir_all(tree.0.join(NODES).join(node)).unwrap();
            fs::write(tree.0.join(NODES).join(node).join("cpulist"), list).unwrap();
        }
        let nodes = |processors: &[u32]| -> Vec<u32> {
            tree.sysfs().nodes_of(&processors.iter().copied().collect()).into_iter().collect()
        };
        assert_eq!((nodes(&[4]), nodes(&[3, 5]), nodes(&[0, 2])), (vec![0], vec![1], vec![0, 1]));
        assert_eq!((nodes(&[]), nodes(&[9])), (vec![], vec![]));
        fs::remove_dir_all(tree.0.join("devices")).unwrap();
        assert_eq!(nodes(&[4]), Vec::<u32>::new());
    }

    #[test]
    fn what_is_no_list_is_none() {
        assert_eq!(processors_of("0-2,7\n").unwrap().into_iter().collect::<Vec<_>>(), [0, 1, 2, 7]);
        assert_eq!(processors_of("").unwrap().len(), 0);
        for text in ["x", "3-1", "0-", "-1", "0-4294967295", "8192", "0-8191,0"] {
            assert_eq!(processors_of(text), None, "{text}");
        }
    }
}
