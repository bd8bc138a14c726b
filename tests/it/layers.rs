//! The layers of the crate: a module uses the modules below it and none above.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// What each folder of src/ may use of the crate, itself apart. A line of ARCHITECTURE.md's table each.
const ALLOWED: &[(&str, &[&str])] = &[
    ("main", &["app", "config"]),
    (
        "app",
        &[
            "server", "stats", "node", "pod", "runtime", "volume", "image", "probe", "cgroup", "kube", "config",
            "model", "sys", "metrics",
        ],
    ),
    (
        "server",
        &[
            "stats", "node", "pod", "runtime", "volume", "image", "probe", "cgroup", "kube", "config", "model", "sys",
            "metrics",
        ],
    ),
    ("stats", &["runtime", "volume", "cgroup", "model", "sys", "metrics"]),
    ("node", &["runtime", "kube", "config", "model", "sys", "metrics"]),
    ("pod", &["runtime", "volume", "image", "probe", "cgroup", "kube", "model", "sys", "metrics"]),
    ("image", &["runtime", "kube", "model", "sys", "metrics"]),
    ("volume", &["kube", "model", "sys", "metrics"]),
    ("probe", &["runtime", "model", "sys", "metrics"]),
    ("cgroup", &["model", "sys", "metrics"]),
    ("runtime", &["model", "sys", "metrics"]),
    ("kube", &["config", "model", "sys", "metrics"]),
    ("config", &["model", "sys"]),
    ("model", &[]),
    ("sys", &[]),
    ("metrics", &[]),
];

/// Crates that only some modules may name: what keeps decisions pure and the kernel in one place.
const CONFINED: &[(&str, &[&str])] = &[
    ("pod/admission", &["tokio", "kube", "tonic", "tracing", "rustix", "libc"]),
    ("pod/plan", &["tokio", "kube", "tonic", "tracing", "rustix", "libc"]),
    ("model", &["tokio", "kube", "tonic", "tracing", "rustix", "libc"]),
    ("runtime/translate", &["tokio", "kube", "tonic", "rustix", "libc"]),
    ("config", &["tokio", "kube", "tonic"]),
];

/// Collects the first segments of `crate::...` and of paths into other crates.
#[derive(Default)]
struct Paths {
    own: BTreeSet<String>,
    others: BTreeSet<String>,
}

impl Paths {
    fn note(&mut self, segments: &[String]) {
        match segments {
            [first, second, ..] if first == "crate" || first == "ferrolet" => {
                self.own.insert(second.clone());
            }
            [first, ..] => {
                self.others.insert(first.clone());
            }
            [] => {}
        }
    }

    fn note_tree(&mut self, tree: &syn::UseTree, mut before: Vec<String>) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.note_tree(&path.tree, before);
            }
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(tree, before.clone())),
            syn::UseTree::Name(name) => {
                before.push(name.ident.to_string());
                self.note(&before);
            }
            syn::UseTree::Rename(name) => {
                before.push(name.ident.to_string());
                self.note(&before);
            }
            syn::UseTree::Glob(_) => self.note(&before),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.note(&segments);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        // Tests of a module may use what they need.
        let test = item.attrs.iter().any(|a| a.path().is_ident("cfg"));
        if !test {
            syn::visit::visit_item_mod(self, item);
        }
    }
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

/// Every source file's path below src/, without its ending, and the paths that it names.
fn all_paths() -> Vec<(String, Paths)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |file: PathBuf| {
        let name = file.strip_prefix(&root).unwrap().with_extension("").to_string_lossy().into_owned();
        let syntax = syn::parse_file(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let mut paths = Paths::default();
        paths.visit_file(&syntax);
        (name, paths)
    };
    sources(&root).into_iter().map(read).collect()
}

#[test]
fn arrows_only_point_down() {
    let mut wrong = Vec::new();
    for (name, paths) in all_paths() {
        let folder = name.split('/').next().unwrap();
        if folder == "lib" {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(f, _)| *f == folder) else {
            wrong.push(format!("src/{name}.rs is in no layer"));
            continue;
        };
        for used in &paths.own {
            let is_module = ALLOWED.iter().any(|(f, _)| f == used);
            if is_module && used != folder && !allowed.contains(&used.as_str()) {
                wrong.push(format!("src/{name}.rs uses crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point up:\n{}", wrong.join("\n"));
}

#[test]
fn pure_modules_stay_pure() {
    let mut wrong = Vec::new();
    for (name, paths) in
        all_paths().into_iter().filter(|(name, _)| !name.ends_with("tests") && !name.ends_with("simulation"))
    {
        for (folder, banned) in CONFINED.iter().filter(|(folder, _)| name.starts_with(folder)) {
            let named: Vec<_> = banned.iter().filter(|c| paths.others.contains(**c)).collect();
            if !named.is_empty() {
                wrong.push(format!("src/{name}.rs names {named:?}, which {folder} must not"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_check_sees_what_it_looks_for() {
    let mut paths = Paths::default();
    let text = "use crate::{pod::plan, kube::{self, events}}; fn f() { crate::node::lease::run(); tokio::spawn(x) }
        #[cfg(test)] mod tests { use crate::app; }";
    paths.visit_file(&syn::parse_file(text).unwrap());
    let own: Vec<_> = paths.own.iter().map(String::as_str).collect();
    assert_eq!(own, ["kube", "node", "pod"]);
    assert!(paths.others.contains("tokio"));
}
