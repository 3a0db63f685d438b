//! Pages of the documentation whose commands and programs a test runs.

/// Fenced blocks below a heading of a page, each with its language.
pub fn blocks<'p>(page: &'p str, heading: &str) -> Vec<(&'p str, &'p str)> {
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).expect(heading);
    let fenced = section.split("\n```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').expect("a line with the language")).collect()
}
