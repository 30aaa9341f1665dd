//! The promises of docs/architecture.md: who imports whom, and what must not stand where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// (the files, what must not stand in them, why)
const RULES: &[(&[&str], &[&str], &str)] = &[
    (
        &["src/queue/state.rs", "src/queue/state", "src/queue/table.rs", "src/queue/idset.rs"],
        &["Mutex", "Condvar", "Instant", "Clock", "std::fs", "std::net", "std::thread", "log::"],
        "the state machine takes no lock, reads no clock and does no I/O",
    ),
    (
        &["src/protocol.rs", "src/protocol"],
        &["std::net", "TcpStream", "std::fs", "crate::queue", "crate::broker", "crate::server"],
        "the protocol knows values and bytes only",
    ),
    (
        &[
            "src/client.rs",
            "src/client",
            "src/worker.rs",
            "src/worker",
            "src/bin/client.rs",
            "src/bin/client",
            "src/bin/worker.rs",
        ],
        &[
            "crate::broker",
            "crate::queue",
            "crate::server",
            "djqs::broker",
            "djqs::queue",
            "djqs::server",
            "Broker",
        ],
        "client and worker speak the wire like anybody else's program",
    ),
    (
        &["src/journal/space.rs"],
        &["Mutex", "Condvar", "Atomic", "Stopwatch", "std::fs", "std::thread", "log::"],
        "the policy for space takes facts and returns decisions",
    ),
    (
        &["src/journal/reserve.rs", "src/journal/account.rs", "src/journal/tail.rs", "src/journal/sync.rs"],
        &["super::writer", "super::compaction"],
        "what the writer and compaction use does not know them",
    ),
    (&["src/journal/writer.rs"], &["super::compaction"], "compaction uses the writer as any other user does"),
    (
        &["src/stats.rs", "src/stats"],
        &["crate::journal", "crate::queue", "crate::broker", "crate::server", "crate::protocol"],
        "counters are plain values, so that any engine can fill them in",
    ),
    (
        &["src/server.rs", "src/server"],
        &["crate::queue", "crate::journal", "crate::broker::embedded"],
        "the server knows the broker by its contract, so that it serves any engine",
    ),
    (
        &["src/queue.rs", "src/queue", "src/broker.rs", "src/broker"],
        &["std::net", "std::fs", "crate::server", "crate::protocol::native"],
        "queue and broker know neither sockets nor files nor text",
    ),
];

fn rust_files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            rust_files(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        found.push(path.into());
    }
}

/// The code of a file, without comments and unit tests: those may speak of everything.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

#[test]
fn nobody_knows_whom_they_must_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (places, forbidden, why) in RULES {
        let mut files = Vec::new();
        places.iter().for_each(|place| {
            if root.join(place).exists() {
                rust_files(&root.join(place), &mut files);
            }
        });
        assert!(!files.is_empty(), "{places:?} are gone: mend the rule");
        for file in files {
            let code = code(&file);
            for word in *forbidden {
                assert!(!code.contains(word), "{} has {word}: {why}", file.display());
            }
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut before = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && line.contains('=') && !line.starts_with('#') {
            let explained =
                before.starts_with('#') || before.starts_with("env_logger") || before.starts_with("log ");
            assert!(explained, "{line} has no sentence that says why it is there");
        }
        before = line;
    }
}

/// A module by the names on its path: `["queue", "state"]` is src/queue/state.rs.
type Module = Vec<String>;

/// Every file of the library, and the modules that its code names.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let of = |file: &Path| -> Module {
        let path = file.strip_prefix(&src).unwrap().with_extension("");
        path.iter().map(|name| name.to_str().unwrap().to_owned()).collect()
    };
    files.retain(|file| !["bin", "lib"].contains(&of(file)[0].as_str()));
    let modules: BTreeSet<Module> = files.iter().map(|file| of(file)).collect();
    let found = files.iter().map(|file| {
        let module = of(file);
        let named = paths(&code(file)).into_iter().filter_map(|path| resolve(&module, &path, &modules));
        let named = named.filter(|named| *named != module).collect();
        (module, named)
    });
    found.collect()
}

/// The paths in a piece of code that begin with `crate`, `super` or `self`, with their braces expanded.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if !before.is_some_and(|c| is_name(c) || c == ':') {
                expand(&code[at..], String::new(), &mut paths);
            }
        }
    }
    paths
}

/// Adds the paths that `text` begins with, each behind `prefix`. Returns how much of the text they take.
fn expand(text: &str, prefix: String, paths: &mut Vec<String>) -> usize {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let path = prefix + &text[..end];
    if !text[end..].starts_with('{') || !path.ends_with("::") {
        paths.push(path);
        return end;
    }
    let mut at = end + 1;
    loop {
        at += text[at..].find(|c: char| !(c.is_whitespace() || c == ',')).expect("braces are closed");
        match text[at..].chars().next() {
            Some('}') => return at + 1,
            Some(c) if c.is_alphanumeric() || c == '_' => at += expand(&text[at..], path.clone(), paths),
            // `*`, and what stands behind `as`.
            Some(c) => at += c.len_utf8(),
            None => return at,
        }
    }
}

/// The module that a path in `module` leads to, or whose item it names.
fn resolve(module: &Module, path: &str, modules: &BTreeSet<Module>) -> Option<Module> {
    let mut names = path.split("::").map(str::trim).peekable();
    let mut found = match names.next()? {
        "crate" => Vec::new(),
        "self" => module.clone(),
        _ => module[..module.len() - 1].to_vec(),
    };
    while names.next_if_eq(&"super").is_some() {
        found.pop();
    }
    for name in names {
        found.push(name.to_owned());
        if !modules.contains(&found) {
            found.pop();
            break;
        }
    }
    Some(found).filter(|found| modules.contains(found))
}

#[test]
fn modules_import_what_the_picture_says() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    let picture = text.split("## Who imports whom").nth(1).unwrap().split("```").nth(1).unwrap();
    let names = |list: &str| -> Vec<String> {
        let names = list.split([',', ' ']).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    let mut basics: Vec<String> = Vec::new();
    let mut drawn: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in picture.lines().filter(|line| !line.is_empty()) {
        let (importers, imported) = line.split_once(" import").unwrap();
        let imported = imported.trim_start_matches('s').trim();
        for importer in names(importers) {
            let imported = match imported {
                "nothing" | "the six above, and nothing else" => Vec::new(),
                list => names(list),
            };
            if ["nothing", "job"].contains(&line.split_whitespace().last().unwrap()) {
                basics.push(importer.clone());
            }
            drawn.insert(importer, imported.into_iter().collect());
        }
    }
    assert_eq!(basics.len(), 6, "the picture has six basic modules: {basics:?}");

    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, named) in imports() {
        let importer = module[0].clone();
        let is_basic = |name: &str| basics.iter().any(|basic| basic == name);
        let imported = named.iter().map(|named| named[0].clone()).filter(|name| *name != importer);
        let imported: Vec<String> = imported.filter(|name| is_basic(&importer) || !is_basic(name)).collect();
        found.entry(importer).or_default().extend(imported);
    }
    assert_eq!(found, drawn, "left: the code; right: docs/architecture.md");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports();
    // A file and the folder of its parts are one.
    let related = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let next =
        |module: &Module| imports[module].iter().filter(|named| !related(module, named)).collect::<Vec<_>>();
    for start in imports.keys() {
        let (mut seen, mut left) = (BTreeSet::new(), next(start));
        while let Some(module) = left.pop() {
            assert!(module != start, "{} imports itself through others", start.join("/"));
            if seen.insert(module) {
                left.extend(next(module));
            }
        }
    }
}
