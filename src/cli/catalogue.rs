//! The rules and passes that there are.

use onnx_opt::passes::rewrite::Rule;
use onnx_opt::passes::{Pass, pipeline, rules};
use onnx_opt::session::Error;
use serde::Serialize;

use super::format::words;
use super::output::{Stream, TITLE};

#[derive(Serialize)]
struct RuleEntry {
    name: &'static str,
    class: String,
    since: i64,
    roots: Vec<&'static str>,
    doc: &'static str,
}

impl RuleEntry {
    fn of(rule: &dyn Rule) -> Self {
        Self {
            name: rule.name(),
            class: rule.class().to_string(),
            since: rule.since(),
            roots: rule.roots(),
            doc: rule.doc().trim(),
        }
    }
}

/// Lists the rules, or shows one.
pub fn rules(name: Option<&str>, json: bool) -> Result<(), Error> {
    let entries: Vec<RuleEntry> = rules::all()
        .iter()
        .map(|rule| RuleEntry::of(&**rule))
        .filter(|rule| name.is_none_or(|name| name == rule.name))
        .collect();
    if let (Some(name), []) = (name, &entries[..]) {
        return Err(Error::unknown_name(name, rules::all().iter().map(|rule| rule.name())));
    }
    if json {
        return Stream::Out.print_json(&entries);
    }
    let row = |rule: &RuleEntry| {
        let since = format!("opset {}", rule.since);
        vec![rule.name.to_owned(), rule.class.clone(), since, rule.doc.replace('\n', " ")]
    };
    match (name, &entries[..]) {
        (Some(_), [rule]) => {
            let title = Stream::Out.paint(TITLE, rule.name);
            let roots = rule.roots.join(", ");
            Stream::Out.print(&format!(
                "{title} ({}, from opset {}), at {roots}\n{}\n",
                rule.class, rule.since, rule.doc
            ))
        }
        _ => Stream::Out.print(&words(entries.iter().map(row).collect())),
    }
}

#[derive(Serialize)]
struct PassEntry {
    name: &'static str,
    doc: &'static str,
}

/// Lists the passes of a level in their order.
pub fn passes(level: u8, json: bool) -> Result<(), Error> {
    let manager = pipeline(level);
    let entries: Vec<PassEntry> =
        manager.passes().map(|pass| PassEntry { name: Pass::name(pass), doc: pass.doc().trim() }).collect();
    if json {
        return Stream::Out.print_json(&entries);
    }
    let row = |(place, pass): (usize, &PassEntry)| {
        vec![(place + 1).to_string(), pass.name.to_owned(), pass.doc.replace('\n', " ")]
    };
    Stream::Out.print(&words(entries.iter().enumerate().map(row).collect()))
}
