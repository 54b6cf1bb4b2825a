//! Errors as they are printed: the place, the line itself, the cause, the cure.

use std::fmt::Write as _;

use super::{Diagnostic, Errors, Site, Sources};

/// More of a line is not shown.
const LINE_CHARACTERS_MAX: usize = 160;

impl Errors {
    /// All errors and warnings as text for a terminal or a log, sorted by place, with their count at the end; empty where
    /// there are none.
    pub fn render(&self, sources: &Sources) -> String {
        let mut all: Vec<(&str, &Diagnostic)> = Vec::new();
        all.extend(self.errors().iter().map(|error| ("error", error)));
        all.extend(self.warnings().iter().map(|warning| ("warning", warning)));
        all.sort_by(|(_, a), (_, b)| place(a).cmp(&place(b)));
        let mut text = String::new();
        for (severity, diagnostic) in all {
            diagnostic.render(severity, sources, &mut text);
        }
        let count = |n, noun| match n {
            0 => None,
            1 => Some(format!("1 {noun}")),
            n => Some(format!("{n} {noun}s")),
        };
        let counts = [count(self.errors().len(), "error"), count(self.warnings().len(), "warning")];
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        if !counts.is_empty() {
            let _ = writeln!(text, "{}", counts.join(", "));
        }
        text
    }
}

fn place(diagnostic: &Diagnostic) -> (&str, u32, u32) {
    (&diagnostic.site.file, diagnostic.site.line, diagnostic.site.column)
}

impl Diagnostic {
    fn render(&self, severity: &str, sources: &Sources, out: &mut String) {
        let Site { file, line, column } = &self.site;
        let told = |text: &str, is_own: bool| match is_own {
            true => printable(text),
            false => printable(&sources.discreet_at(text, self)),
        };
        let _ = writeln!(out, "{severity}: {}", told(&self.cause, self.own.0));
        let margin = " ".repeat(line.to_string().len());
        let _ = match line {
            0 => write!(out, "{margin}--> {file}"),
            _ => write!(out, "{margin}--> {file}:{line}:{column}"),
        };
        if !self.path.is_empty() {
            let _ = write!(out, "  ({})", printable(&sources.discreet_path(&self.path, file)));
        }
        out.push('\n');
        if let Some((snippet, at)) = sources.shown_line(&self.site) {
            let at = snippet.get(..at).unwrap_or_default().chars().count();
            let (shown, before, length) = window(&snippet, at);
            let _ = writeln!(out, "{margin} |\n{line} | {shown}");
            let _ = writeln!(out, "{margin} | {}{}", " ".repeat(before), "^".repeat(length));
        }
        if !self.cure.is_empty() {
            let _ = writeln!(out, "{margin} = help: {}", told(&self.cure, self.own.1));
        }
        out.push('\n');
    }
}

/// The part of a line to show, how many characters of it stand before the caret, and how many are meant; `at` counts characters.
fn window(line: &str, at: usize) -> (String, usize, usize) {
    let skipped = at.saturating_sub(LINE_CHARACTERS_MAX / 2);
    let shown: String = line.chars().skip(skipped).take(LINE_CHARACTERS_MAX).collect();
    let before = (at - skipped).min(shown.chars().count());
    let meant: String = shown.chars().skip(before).collect();
    (printable(&shown).trim_end().to_owned(), before, word_length(&meant))
}

/// How many characters the key, or the value, at the beginning of a text has; at least one.
fn word_length(text: &str) -> usize {
    let mut characters = text.chars();
    let Some(first) = characters.next() else {
        return 1;
    };
    if matches!(first, '"' | '\'') {
        return characters.position(|c| c == first).map_or(1, |at| at + 2);
    }
    if matches!(first, '[' | '{') {
        return 1;
    }
    let mut length = 1;
    let mut rest = characters.peekable();
    while let Some(c) = rest.next() {
        let ends = c.is_whitespace() || matches!(c, ',' | ']' | '}');
        if ends || (c == ':' && rest.peek().is_none_or(|next| next.is_whitespace())) {
            break;
        }
        length += 1;
    }
    length
}

/// Without control characters, which could play tricks on a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Sources {
        let mut sources = Sources::default();
        sources.add(&"a.yaml".into(), text);
        sources
    }

    #[test]
    fn an_error_names_place_line_cause_and_cure() {
        let mut errors = Errors::default();
        errors.push(&Site::new("a.yaml", 2, 3), "server.dran", "unknown key `dran`", "did you mean `drain`?");
        errors.warn(&Site::new("a.yaml", 1, 1), "", "odd", "");
        let expected = "warning: odd\n --> a.yaml:1:1\n  |\n1 | server:\n  | ^^^^^^\n\nerror: unknown key `dran`\n --> \
                        a.yaml:2:3  (server.dran)\n  |\n2 |   dran: 5s\n  |   ^^^^\n  = help: did you mean \
                        `drain`?\n\n1 error, 1 warning\n";
        assert_eq!(errors.render(&sources("server:\n  dran: 5s\n")), expected);
        assert_eq!(Errors::default().render(&sources("")), "");
    }

    #[test]
    fn a_caret_is_as_long_as_the_word() {
        for (text, length) in [
            ("key: value", 3),
            ("value", 5),
            ("\"a b\", c", 5),
            ("'open", 1),
            ("[::1]:80", 1),
            ("a:b c", 3),
            ("a, b", 1),
            ("x]", 1),
            ("", 1),
        ] {
            assert_eq!(word_length(text), length, "{text}");
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let line = format!("{}here{}", "a".repeat(1000), "b".repeat(1000));
        let (shown, before, _) = window(&line, 1000);
        assert_eq!(shown.chars().count(), 160);
        assert!(shown.chars().skip(before).collect::<String>().starts_with("here"));
    }

    #[test]
    fn a_terminal_is_not_played_tricks_on() {
        let mut errors = Errors::default();
        errors.push(&Site::new("a.yaml", 1, 1), "", "bad \u{1b}[31m", "");
        assert!(!errors.render(&sources("x\u{1b}[2J")).contains('\u{1b}'));
    }
}
