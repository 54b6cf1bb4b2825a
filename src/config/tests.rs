//! A load as a whole.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use super::units::{Percent, Size, Time};
use super::{Build, OrNone, Pattern, Spanned, load, load_text};

/// A document that has every form a configuration has.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Sample {
    include: Vec<Spanned<String>>,
    time: Option<Time>,
    size: Option<Spanned<Size>>,
    share: Option<Percent>,
    number: Option<i32>,
    truth: bool,
    text: Spanned<String>,
    word: Word,
    or_none: OrNone<Spanned<String>>,
    or_list: Option<OrNone<Vec<Spanned<String>>>>,
    pattern: Option<Spanned<Pattern>>,
    once: Spanned<Once>,
    named: BTreeMap<String, Spanned<Once>>,
    parts: Parts,
    list: Vec<Spanned<Once>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Once {
    a: Spanned<String>,
    b: OrNone<Spanned<Inner>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Inner {
    c: Spanned<u32>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Parts {
    left: BTreeMap<String, Spanned<Once>>,
    right: BTreeMap<String, Spanned<Once>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Word {
    #[default]
    One,
    Two,
}

fn environment(name: &str) -> Option<String> {
    match name {
        "NUMBER" => Some("7".to_owned()),
        "YAML" => Some("a\nb: [c".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> (Option<Sample>, Build) {
    let mut build = Build::default();
    let sample = load_text("dir/a.yaml", text, &environment, &mut build);
    (sample, build)
}

fn good(text: &str) -> Sample {
    let (sample, build) = read(text);
    sample.unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)))
}

fn causes(text: &str) -> Vec<String> {
    let (sample, build) = read(text);
    assert!(sample.is_none(), "{text}");
    build.errors.errors().iter().map(|error| error.cause.clone()).collect()
}

#[test]
fn every_form_is_decoded() {
    let sample = good(
        "time: 90s\nsize: 8KiB\nshare: 10%\nnumber: -3\ntruth: true\ntext: \"1.10\"\nword: two\nor_none: x\nor_list: \
         [inherit, x]\npattern: {regex: '^a'}\nonce: {a: x, b: {c: 7}}\nnamed: {n: {a: y}}\nlist: [{a: z}]\n",
    );
    assert_eq!(sample.time, Some(Time::parse("90s").unwrap()));
    assert_eq!(sample.size.unwrap().value, Size(8192));
    assert_eq!(sample.share, Some(Percent(1000)));
    assert_eq!((sample.number, sample.truth, sample.word), (Some(-3), true, Word::Two));
    assert_eq!(sample.text.value, "1.10");
    assert_eq!(sample.or_none.as_option().unwrap().value, "x");
    let OrNone::Some(list) = sample.or_list.unwrap() else { panic!("none") };
    assert_eq!(list.len(), 2);
    assert_eq!(sample.pattern.unwrap().value, Pattern::Regex("^a".to_owned()));
    assert_eq!(sample.once.b.as_option().unwrap().c.value, 7);
    assert_eq!(sample.named.get("n").unwrap().a.value, "y");
    assert_eq!(sample.list.first().unwrap().a.value, "z");
}

#[test]
fn the_word_none_and_nothing_at_all() {
    let sample = good("or_none: none\nor_list: none\nonce: {b: none}\n");
    assert_eq!(sample.or_none.as_option().map(|text| text.value.as_str()), None);
    assert!(matches!(sample.or_list, Some(OrNone::None)));
    for empty in ["", "# only a comment\n", "---\n", "~\n", "{}\n"] {
        assert!(good(empty).list.is_empty(), "{empty:?}");
    }
}

#[test]
fn json_is_yaml() {
    assert_eq!(good("{\"number\": 3, \"text\": \"a\\u00e9\", \"list\": [{\"a\": \"x\"}]}").text.value, "aé");
}

#[test]
fn a_value_knows_its_place() {
    let sample =
        good("# first\ntext: a\nonce:\n  b:\n    c: 7\nlist:\n  - a: x\n  -\n    a: y\nor_none:   z\n");
    let place = |site: &super::Site| (site.line, site.column);
    assert_eq!(place(&sample.text.site), (2, 1), "of its key");
    assert_eq!(&*sample.text.path, "text");
    assert_eq!(sample.text.site.to_string(), "dir/a.yaml:2");
    let inner = sample.once.b.as_option().unwrap();
    assert_eq!((place(&inner.site), &*inner.path), ((4, 3), "once.b"));
    assert_eq!((place(&inner.c.site), &*inner.c.path), ((5, 5), "once.b.c"));
    let places: Vec<_> = sample.list.iter().map(|item| (place(&item.site), item.path.to_string())).collect();
    assert_eq!(places, [((7, 5), "list[0]".to_owned()), ((9, 5), "list[1]".to_owned())]);
    assert_eq!(place(&sample.or_none.as_option().unwrap().site), (10, 1));
    assert_eq!(place(&good("").text.site), (0, 0), "written nowhere");
}

#[test]
fn plain_substitutions_are_typed_and_quoted_ones_stay_texts() {
    assert_eq!(good("number: ${env:NUMBER}\n").number, Some(7));
    assert_eq!(good("number: -${env:NUMBER}0\n").number, Some(-70));
    assert_eq!(good("time: ${env:NUMBER}s\n").time, Time::parse("7s"));
    assert_eq!(good("text: \"${env:NUMBER}\"\n").text.value, "7");
    assert_eq!(
        causes("text: ${env:NUMBER}\n"),
        ["the value of `${env:NUMBER}` is a number; wanted is a text"]
    );
}

#[test]
fn a_substitution_cannot_change_the_structure() {
    assert_eq!(good("text: ${env:YAML}\n").text.value, "a\nb: [c");
}

#[test]
fn a_doubled_dollar_is_itself() {
    assert_eq!(good("text: a $${env:NUMBER} $ $$ {x}\n").text.value, "a ${env:NUMBER} $ $$ {x}");
}

#[test]
fn an_alias_is_a_copy() {
    let sample = good("named:\n  x: &x {a: one}\n  y: *x\n");
    assert_eq!(sample.named.get("y").unwrap().a.value, "one");
}

#[test]
fn errors_that_the_load_did_not_make_do_not_stop_it() {
    let mut build = Build::default();
    build.errors.push(&super::Site::default_value(), "", "before", "");
    let sample: Option<Sample> = load_text("a.yaml", "number: 1", &environment, &mut build);
    assert!(sample.is_some());
    assert_eq!(build.errors.errors().len(), 1);
}

#[test]
fn files_join_lists_append_and_all_are_watched() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("[d]")).unwrap();
    fs::write(path("main.yaml"), "include: ['[[]d]/*.yaml', one.yaml]\nlist: [{a: main}]\nnumber: 1\n")
        .unwrap();
    fs::write(path("[d]/b.yaml"), "list: [{a: b}]\nnamed: {b: {a: '${file:value.txt}'}}\n").unwrap();
    fs::write(path("[d]/a.yaml"), "list: [{a: a}]\nnamed: {a: {}}\nparts: {left: {a: {}}}\n").unwrap();
    fs::write(path("[d]/value.txt"), "from a file\n\n").unwrap();
    fs::write(path("one.yaml"), "parts: {left: {b: {}}, right: {a: {}}}\n").unwrap();
    let mut build = Build::default();
    let sample: Option<Sample> = load(&path("main.yaml"), &environment, &mut build);
    let sample = sample.unwrap_or_else(|| panic!("{}", build.errors.render(&build.sources)));
    let order: Vec<&str> = sample.list.iter().map(|item| item.a.value.as_str()).collect();
    assert_eq!(order, ["main", "a", "b"]);
    assert_eq!(sample.named.get("b").unwrap().a.value, "from a file");
    assert_eq!((sample.parts.left.len(), sample.parts.right.len()), (2, 1));
    for name in ["main.yaml", "[d]/a.yaml", "[d]/b.yaml", "[d]/value.txt", "one.yaml", "[d]"] {
        assert!(build.files.watched().contains(&path(name)), "{name}: {:?}", build.files.watched());
    }
    let before = build.files.hash();
    fs::write(path("[d]/value.txt"), "another").unwrap();
    let mut build = Build::default();
    assert!(load::<Sample>(&path("main.yaml"), &environment, &mut build).is_some());
    assert_ne!(build.files.hash(), before);
}

#[test]
fn files_do_not_include_each_other_without_end() {
    let directory = tempfile::tempdir().unwrap();
    for n in 0..20 {
        let text = format!("include: [{}.yaml]\n", n + 1);
        fs::write(directory.path().join(format!("{n}.yaml")), text).unwrap();
    }
    let mut build = Build::default();
    assert!(load::<Sample>(&directory.path().join("0.yaml"), &environment, &mut build).is_none());
    let causes: Vec<&str> = build.errors.errors().iter().map(|error| error.cause.as_str()).collect();
    assert!(
        matches!(causes.as_slice(), [cause] if cause.ends_with("through more than 16 files")),
        "{causes:?}"
    );
}

#[test]
fn ten_thousand_names_load() {
    let text: String = (0..10_000).map(|n| format!("  n{n}: {{a: x}}\n")).collect();
    let list: String = (0..10_000).map(|n| format!("  - {{a: x{n}}}\n")).collect();
    let sample = good(&format!("named:\n{text}list:\n{list}"));
    assert_eq!((sample.named.len(), sample.list.len()), (10_000, 10_000));
}

#[test]
fn a_pattern_without_files_is_worth_a_warning() {
    let (sample, build) = read("include: ['none-*.yaml']\n");
    assert!(sample.is_some());
    assert_eq!(build.errors.warnings().len(), 1);
}

#[test]
fn the_hash_hears_of_the_environment() {
    let hash = |value: &'static str| {
        let mut build = Build::default();
        let environment = |_: &str| Some(value.to_owned());
        assert!(load_text::<Sample>("a", "text: '${env:A}'", &environment, &mut build).is_some());
        build.files.hash()
    };
    assert_ne!(hash("a"), hash("b"));
    assert_eq!(hash("a"), hash("a"));
}

#[test]
fn a_secret_is_in_no_message_of_a_type_either() {
    #[derive(Debug, JsonSchema)]
    struct Picky;

    impl<'de> Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            Err(serde::de::Error::custom(format!("`{text}` is not picky")))
        }
    }

    #[derive(Debug, Deserialize)]
    struct Holder {
        #[serde(rename = "text")]
        _text: Picky,
    }

    impl JsonSchema for Holder {
        fn schema_name() -> std::borrow::Cow<'static, str> {
            "Holder".into()
        }

        fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
            schemars::json_schema!({ "type": "object", "properties": { "text": {} } })
        }
    }

    let say = |text: &str| {
        let mut build = Build::default();
        let environment = |_: &str| Some("hunter2".to_owned());
        assert!(load_text::<Holder>("a.yaml", text, &environment, &mut build).is_none());
        build.errors.render(&build.sources)
    };
    assert!(say("text: plain").contains("error: `plain` is not picky\n --> a.yaml:1:7  (text)"));
    let said = say("text: x${env:A}");
    assert!(said.contains("the value of `x${env:A}` does not fit") && !said.contains("hunter2"), "{said}");
}

/// Texts that look like configurations, more than random characters do.
fn yaml_like() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "include",
        "time",
        "text",
        "named",
        "list",
        "once",
        "or_none",
        "a",
        "b",
        ": ",
        ":",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&x ",
        "*x",
        "<<",
        "\"",
        "'",
        "|",
        ">",
        "#",
        "${env:NUMBER}",
        "${",
        "$${",
        "!t ",
        "---",
        "...",
        "~",
        "1.10",
        "9999999999999999999999",
        "-1",
        "true",
        "none",
        "\t",
        "é",
        "\u{feff}",
        "\u{0}",
        "%",
        "@",
        "? ",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_load_panic(text in prop_oneof![yaml_like(), ".{0,200}"]) {
        let (sample, build) = read(&text);
        prop_assert_eq!(sample.is_none(), !build.errors.is_empty());
        for error in build.errors.errors() {
            prop_assert!(!error.cause.is_empty() && !error.cure.is_empty());
        }
        build.errors.render(&build.sources);
    }

    #[test]
    fn what_is_quoted_comes_back(text in "[^\u{0}-\u{1f}\u{7f}-\u{9f}'$\u{feff}\u{fffe}\u{ffff}]{0,60}") {
        prop_assert_eq!(good(&format!("text: '{text}'\n")).text.value, text);
    }
}
