//! docs/operations.md lists every setting, with the default that the program has.

use std::collections::BTreeMap;

/// Key → default, as `config.rs` reads them: `r.get("server.listen", "127.0.0.1:8080")`.
fn settings_of_the_program() -> BTreeMap<String, String> {
    let source = concat!(
        include_str!("../../../src/config/mod.rs"),
        include_str!("../../../src/config/bus.rs"),
        include_str!("../../../src/config/aws.rs"),
        include_str!("../../../src/config/database.rs"),
        include_str!("../../../src/config/email.rs"),
        include_str!("../../../src/config/files.rs"),
        include_str!("../../../src/config/load_balancer.rs"),
        include_str!("../../../src/config/telemetry.rs"),
        include_str!("../../../src/config/tls.rs"),
        include_str!("../../../src/config/instance.rs"),
    );
    let mut settings = BTreeMap::new();
    for reader in ["get", "required", "optional", "seconds", "millis", "words", "words::<String>", "list_of"]
    {
        for (at, _) in source.match_indices(&format!(".{reader}(\"")) {
            let call = &source[at + reader.len() + 3..];
            let (key, rest) = call.split_once('"').unwrap();
            let default = match rest.strip_prefix(", ") {
                Some(rest) => rest.split(')').next().unwrap().trim_matches('"').replace('_', ""),
                None => String::new(),
            };
            settings.insert(key.to_owned(), default);
        }
    }
    settings
}

/// Key → default, as the tables show them: ``| `server.listen` | `127.0.0.1:8080` | … |``.
fn settings_of_the_page() -> BTreeMap<String, String> {
    let page = include_str!("../../../docs/operations.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`'));
        let key = cells.next()?.to_owned();
        key.contains('.').then(|| (key, cells.next().unwrap_or_default().to_owned()))
    });
    rows.collect()
}

#[test]
fn the_page_lists_every_setting_with_its_default() {
    let program = settings_of_the_program();
    assert!(program.len() > 30, "config.rs is read in another way now: {program:?}");
    let page = settings_of_the_page();
    let mut differences: Vec<String> = Vec::new();
    for key in program.keys().chain(page.keys().filter(|key| !program.contains_key(*key))) {
        let (is, says) = (program.get(key), page.get(key));
        if is != says {
            differences.push(format!("{key}: config.rs {is:?}, operations.md {says:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
