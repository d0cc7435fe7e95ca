//! Takes flags out of the arguments, and variables out of the environment. A flag beats its
//! variable, and an empty variable counts as unset unless said.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use pico_args::Arguments;

use super::flags::{self, Flag, Subcommand};
use super::values::{SWITCH, choose, split, without_repeats};
use base::error::usage;

impl Flag {
    pub fn is_given(&self, args: &mut Arguments) -> bool {
        args.contains(self.name)
    }

    /// The value of the flag, else of its variable, unless that is empty.
    /// Errors: a usage error for a flag without a value, or for a value that is not UTF-8.
    pub fn text(&self, args: &mut Arguments) -> Result<Option<String>> {
        let given = match self.name {
            "" => None,
            name => args.opt_value_from_str(name).map_err(|error| usage(format!("{error}.")))?,
        };
        Ok(given.or(variable(self.variable)?))
    }

    /// The same, as `parse` reads it. Its error is the end of a sentence on the value.
    /// Errors: as [`Flag::text`], and a usage error with what `parse` says.
    pub fn read<T>(
        &self,
        args: &mut Arguments,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>> {
        self.text(args)?.map(|text| self.parse(&text, parse)).transpose()
    }

    /// The items of the flag, which may be repeated, else of its variable; each once.
    /// Errors: as [`Flag::text`], and a usage error for a flag without any item.
    pub fn list(&self, args: &mut Arguments) -> Result<Vec<String>> {
        let given: Vec<String> =
            args.values_from_str(self.name).map_err(|error| usage(format!("{error}.")))?;
        if given.is_empty() {
            let items = variable(self.variable)?.unwrap_or_default();
            return Ok(without_repeats(split(&items)));
        }
        let items = split(&given.join(","));
        if items.is_empty() {
            let name = self.name;
            return Err(usage(format!("{name} names nothing: give it a value, or leave it out.")));
        }
        Ok(without_repeats(items))
    }

    /// Those of `all` that the flag or its variable names; all where neither is set, and an empty
    /// variable is set here. In the order of `all`: the same set is the same build argument.
    /// Errors: as [`Flag::text`], and a usage error for another name.
    pub fn set(&self, args: &mut Arguments, all: &[&'static str]) -> Result<Vec<&'static str>> {
        let named = match self.text(args)? {
            None if env::var_os(self.variable).is_none() => return Ok(all.to_vec()),
            named => split(&named.unwrap_or_default()),
        };
        let table = all.iter().map(|name| (*name, *name)).collect::<Vec<_>>();
        let named = named.iter().map(|name| self.parse(name, |name| choose(name, &table)));
        let named = named.collect::<Result<Vec<_>>>()?;
        Ok(all.iter().copied().filter(|name| named.contains(name)).collect())
    }

    /// The variable as a switch, if it is set.
    /// Errors: a usage error for a word that is neither on nor off.
    pub fn switch(&self) -> Result<Option<bool>> {
        let word = variable(self.variable)?;
        word.map(|word| self.parse(&word, |word| choose(word, SWITCH))).transpose()
    }

    fn parse<T>(&self, text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<T> {
        parse(text).map_err(|why| usage(format!("{} {text:?} {why}", self.label())))
    }
}

/// The value of the environment variable `name`, unless it is unset or empty.
/// Errors: a usage error for a value that is not UTF-8.
pub fn variable(name: &str) -> Result<Option<String>> {
    let value = env::var_os(name).filter(|value| !value.is_empty());
    let text = value.map(|value| {
        value.into_string().map_err(|value| {
            let value = value.to_string_lossy();
            usage(format!("{name}={value:?} is not UTF-8: set it to text, or unset it."))
        })
    });
    text.transpose()
}

/// Is this a CI system's run? Some set `CI` to their own name, so only the words for off are off.
pub fn is_ci() -> Result<bool> {
    let is_set = |value: &String| choose(value, SWITCH) != Ok(false);
    let (ci, actions) = (variable("CI")?, variable("GITHUB_ACTIONS")?);
    Ok(ci.iter().chain(&actions).any(is_set))
}

/// What is left of `args`, of which nothing may be a flag.
/// Errors: a usage error for a flag that `command` does not take.
pub fn free(args: Arguments, command: Subcommand) -> Result<Vec<OsString>> {
    let words = args.finish();
    match words.iter().find(|word| word.to_string_lossy().starts_with('-')) {
        Some(flag) => Err(flags::unexpected(&flag.to_string_lossy(), command)),
        None => Ok(words),
    }
}

/// The files that are named where all flags have been taken out of `args`.
/// Errors: a usage error for a flag that is left, or where no file is named.
pub fn files(args: Arguments, command: Subcommand) -> Result<Vec<PathBuf>> {
    let files = free(args, command)?;
    if files.is_empty() {
        return Err(usage("no file is named: name those that --build-info wrote."));
    }
    Ok(files.into_iter().map(PathBuf::from).collect())
}
