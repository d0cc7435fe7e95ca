//! What a job of GitHub Actions gets: outputs of its step and a page.

use std::fs;

use crate::support::fake::FakeDocker;
use crate::support::{events, expected};

#[test]
fn outputs_have_the_tags_in_both_forms_and_what_the_helper_gave() {
    let fake = FakeDocker::new("ci-outputs");
    let file = fake.file("outputs");
    let call = fake.push(&["--versioned-tag", "--arch=arm64", "--target=source"]);
    let ended = call.env("SDK_VERSION", "1.58.2").env("GITHUB_OUTPUT", &file).succeed();
    let outputs = fs::read_to_string(file).unwrap();
    // A text of several lines ends with a word that nobody can foresee.
    let (_, rest) = outputs.split_once("\ntags<<").unwrap();
    let (delimiter, tags) = rest.split_once('\n').unwrap();
    assert!(delimiter.len() > 16 && tags.starts_with(&format!("{}{delimiter}\n", ended.stdout)));
    let outputs = outputs.replace(delimiter, "DELIMITER");
    expected::check("fake/expected/outputs.txt", &outputs);
}

#[test]
fn the_page_of_a_job_shows_each_image() {
    let fake = FakeDocker::new("ci-page");
    let step = events::run("builder 2/3", "python.sh");
    fake.play("debian.image", &events::done(&step, (1.0, 8.0)));
    let page = fake.file("page.md");
    fake.write("page.md", "before\n");
    fake.push(&["--check=off"]).env("GITHUB_STEP_SUMMARY", &page).succeed();
    let page = fs::read_to_string(page).unwrap();
    expected::check("fake/expected/job_page.md", &expected::steady(&page, &fake.0.0));
}
