//! Takes flags out of the arguments, and variables out of the environment. A flag beats its
//! variable, and an empty variable counts as unset unless said.

use std::env::{self, VarError};
use std::path::PathBuf;

use anyhow::Result;
use pico_args::Arguments;

use super::flags::{self, Flag, Subcommand};
use super::values::{self, split, without_repeats};
use crate::error::usage;

impl Flag {
    /// Is the switch among `args`?
    pub fn is_given(&self, args: &mut Arguments) -> bool {
        args.contains(self.name)
    }

    /// The flag's value, if it is given; its variable is not looked at.
    ///
    /// # Errors
    /// A usage error for a flag without a value, or with one that is not UTF-8.
    pub fn value(&self, args: &mut Arguments) -> Result<Option<String>> {
        args.opt_value_from_str(self.name).map_err(|error| usage(format!("{error}.")))
    }

    /// The value of the flag, else of its variable, unless that is empty.
    ///
    /// # Errors
    /// A usage error for a flag without a value, or for a value that is not UTF-8.
    pub fn text(&self, args: &mut Arguments) -> Result<Option<String>> {
        Ok(self.value(args)?.or(variable(self.variable)?))
    }

    /// As [`Flag::text`], where an empty variable means something else than an unset one.
    ///
    /// # Errors
    /// As [`Flag::text`].
    pub fn text_or_empty(&self, args: &mut Arguments) -> Result<Option<String>> {
        Ok(self.value(args)?.or(set_variable(self.variable)?))
    }

    /// The items of the flag, which is repeated or has a comma list, else of its variable; each
    /// item once.
    ///
    /// # Errors
    /// As [`Flag::text`], and for a flag without any item.
    pub fn list(&self, args: &mut Arguments) -> Result<Vec<String>> {
        let items = self.items(args)?;
        let items = match items.as_slice() {
            [] => variable(self.variable)?.map(|items| split(&items)).unwrap_or_default(),
            _ => items,
        };
        Ok(without_repeats(items))
    }

    /// The items of the flag alone; none where it is not given.
    ///
    /// # Errors
    /// As [`Flag::list`].
    pub fn items(&self, args: &mut Arguments) -> Result<Vec<String>> {
        let given: Vec<String> =
            args.values_from_str(self.name).map_err(|error| usage(format!("{error}.")))?;
        let items = given.iter().flat_map(|items| split(items)).collect::<Vec<_>>();
        if items.is_empty() && !given.is_empty() {
            let name = self.name;
            return Err(usage(format!("{name} names nothing: give it a value, or leave it out.")));
        }
        Ok(items)
    }

    /// The variable as a switch, if it is set.
    ///
    /// # Errors
    /// A usage error for a word that is neither on nor off.
    pub fn switch(&self) -> Result<Option<bool>> {
        let value = variable(self.variable)?;
        value.map(|value| values::switch(self.variable, &value)).transpose()
    }

    /// The variable's path, absolute, since bake runs in another folder than the caller.
    ///
    /// # Errors
    /// A usage error for a value that is not UTF-8; a working directory that is gone.
    pub fn path(&self) -> Result<Option<String>> {
        let path = variable(self.variable)?.map(std::path::absolute).transpose()?;
        Ok(path.map(|path| path.to_string_lossy().into_owned()))
    }
}

/// The value of the environment variable `name`, unless it is unset or empty.
///
/// # Errors
/// A usage error for a value that is not UTF-8.
pub fn variable(name: &str) -> Result<Option<String>> {
    Ok(set_variable(name)?.filter(|value| !value.is_empty()))
}

fn set_variable(name: &str) -> Result<Option<String>> {
    match env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(value)) => {
            let value = value.to_string_lossy();
            Err(usage(format!("{name}={value:?} is not UTF-8: set it to text, or unset it.")))
        }
    }
}

/// The first of the variables that is set.
///
/// # Errors
/// As [`variable`].
pub fn first_of(names: [&str; 2]) -> Result<Option<String>> {
    for name in names {
        if let Some(value) = variable(name)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Is this a CI system's run?
///
/// # Errors
/// As [`variable`].
pub fn is_ci() -> Result<bool> {
    for name in ["CI", "GITHUB_ACTIONS"] {
        if variable(name)?.is_some_and(|value| !values::is_off(&value)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The files that are named where all flags have been taken out of `args`.
///
/// # Errors
/// A usage error for a flag that is left, or where no file is named.
pub fn files(args: Arguments, command: Subcommand) -> Result<Vec<PathBuf>> {
    let files = args.finish();
    match files.iter().find(|file| file.to_string_lossy().starts_with('-')) {
        Some(flag) => Err(flags::unexpected(&flag.to_string_lossy(), command)),
        None if files.is_empty() => {
            Err(usage("no file is named: name those that --build-info wrote."))
        }
        None => Ok(files.into_iter().map(PathBuf::from).collect()),
    }
}
