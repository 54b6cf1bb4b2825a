//! The tree against the schema: every error of it, in an operator's words.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;
use serde_json::Value as Schema;

use super::shape::Shape;
use super::tree::{Node, Trail, Value};
use super::{Errors, Site, wording};

/// Checks a tree as a whole.
pub(super) fn validate(tree: &Node, shape: &Shape, errors: &mut Errors) {
    let Some(validator) = shape.validator() else {
        return errors.push(
            &tree.site,
            "",
            "the schema is broken",
            "this is a fault of Portcullis: report it",
        );
    };
    let json = tree.to_json();
    let mut findings = Vec::new();
    for error in validator.iter_errors(&json) {
        sort_out(&error, &mut findings);
    }
    for finding in &findings {
        let steps: Vec<&str> = finding.at.split('/').skip(1).collect();
        locate(tree, &tree.site, Trail::Root, &steps, &mut |place| {
            wording::tell(&place, finding, &findings, shape, errors);
        });
    }
}

/// One way in which the document breaks the schema.
pub(super) struct Finding {
    /// JSON pointer of the value.
    pub(super) at: String,
    /// JSON pointer of the keyword that is broken.
    pub(super) keyword: String,
    pub(super) what: What,
}

/// What is wrong with a value.
pub(super) enum What {
    /// None of the forms it could have.
    Form,
    /// Keys that are not known.
    Unknown(Vec<String>),
    /// A key that must be there.
    Missing(String),
    /// A number outside its bounds, or a list of the wrong length.
    Bounds,
    /// A text that is not of its format.
    Format,
}

/// Where a finding is.
pub(super) struct Place<'a> {
    pub(super) node: &'a Node,
    /// The place of its key; of itself in a list.
    pub(super) key: &'a Site,
    pub(super) trail: Trail<'a>,
}

/// Adds what an error means: of several forms, the findings of the one that was meant.
fn sort_out(error: &ValidationError<'_>, findings: &mut Vec<Finding>) {
    let what = match error.kind() {
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            if let Some(branch) = meant(context, error.instance_path().as_str()) {
                branch.iter().for_each(|error| sort_out(error, findings));
                return;
            }
            What::Form
        }
        Kind::AdditionalProperties { unexpected } => What::Unknown(unexpected.clone()),
        Kind::Required { property } => What::Missing(property.as_str().unwrap_or_default().to_owned()),
        Kind::Minimum { .. }
        | Kind::Maximum { .. }
        | Kind::MinItems { .. }
        | Kind::MaxItems { .. }
        | Kind::MinProperties { .. } => What::Bounds,
        Kind::Format { .. } => What::Format,
        // Stands beside a format of ours, for editors; the format has been checked itself.
        Kind::Pattern { .. } => return,
        _ => What::Form,
    };
    findings.push(Finding {
        at: error.instance_path().as_str().to_owned(),
        keyword: error.schema_path().as_str().to_owned(),
        what,
    });
}

/// Of the forms a value may have, the one that it is an attempt at: the one whose type it has.
fn meant<'a>(forms: &'a [Vec<ValidationError<'static>>], at: &str) -> Option<&'a [ValidationError<'static>]> {
    let fits = |form: &&'a Vec<ValidationError<'static>>| form.iter().all(|error| !is_other_form(error, at));
    let mut fitting = forms.iter().filter(fits);
    let first = fitting.next()?;
    Some(fitting.fold(first, |best, form| if form.len() < best.len() { form } else { best }))
}

/// Whether an error says that a value is something else altogether.
fn is_other_form(error: &ValidationError<'_>, at: &str) -> bool {
    if error.instance_path().as_str() != at {
        return false;
    }
    match error.kind() {
        Kind::Type { .. } | Kind::Constant { .. } | Kind::Enum { .. } => true,
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => meant(context, at).is_none(),
        _ => false,
    }
}

/// Walks to a node by the steps of a JSON pointer. Nothing is said about what lies in something broken.
fn locate(node: &Node, key: &Site, trail: Trail<'_>, steps: &[&str], found: &mut dyn FnMut(Place<'_>)) {
    if matches!(node.value, Value::Broken) {
        return;
    }
    let Some((step, rest)) = steps.split_first() else {
        return found(Place { node, key, trail });
    };
    let name = step.replace("~1", "/").replace("~0", "~");
    if let Some(entry) = node.entry(&name) {
        return locate(&entry.value, &entry.site, Trail::Key(&trail, &entry.key), rest, found);
    }
    if let Ok(index) = name.parse()
        && let Some(item) = node.item(index)
    {
        locate(item, &item.site, Trail::Index(&trail, index), rest, found);
    }
}

/// The keys that a mapping's schema knows.
pub(super) fn known<'a>(shape: &'a Shape, schema: &'a Schema) -> Vec<&'a str> {
    let properties = shape.resolve(schema).get("properties").and_then(Schema::as_object);
    properties.map(|known| known.keys().map(String::as_str).collect()).unwrap_or_default()
}
