//! What of this machine's configuration reaches the steps of a build.

use std::fs;
use std::process::Command;

use crate::support::fake::FakeDocker;
use crate::support::{Xtask, root};

/// A docker that keeps the secrets of a bake in files.
fn keeping(name: &str) -> FakeDocker {
    let script = "case \"$*\" in *' bake '*) mkdir -p secrets tmp
        printf %s \"${XTASK_SECRET_PIP_CONF-}\" >secrets/pip.conf
        printf %s \"${XTASK_SECRET_SETTINGS-}\" >secrets/settings
        printf %s \"${XTASK_SECRET_UV_TOML-}\" >secrets/uv.toml
        printf %s \"${XTASK_SECRET_NPMRC-}\" >secrets/npmrc;; esac\n";
    FakeDocker::with_override(name, script)
}

/// What `script` prints in a step that has these secrets.
fn in_step(fake: &FakeDocker, script: &str) -> String {
    let step = |name: &str| {
        let text = fs::read_to_string(root().join("agent-server-image/steps").join(name)).unwrap();
        text.replace("/run/", &format!("{}/", fake.0.0.display()))
    };
    fake.write("mirrors.py", &step("mirrors.py"));
    let settings = fake.lines("secrets/settings").join("\n");
    fake.write(
        "secrets/settings",
        &settings.replace("/run/tmp", &fake.file("tmp").display().to_string()),
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{}\n{script}", step("lib.sh"))]);
    let output = shell.env_clear().env("PATH", std::env::var("PATH").unwrap()).output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The variables of pip and uv that name indexes, in a step.
fn indexes(fake: &FakeDocker) -> String {
    let script = "env | grep -E '^(PIP|UV)_.*(INDEX|HOST)' | sort | paste -sd ';'";
    in_step(fake, script).trim_end().replace(';', "; ")
}

fn pip_index(fake: &FakeDocker) -> String {
    in_step(fake, "printf %s ${PIP_INDEX_URL-}")
}

/// The .npmrc of a step.
fn npmrc(fake: &FakeDocker) -> String {
    in_step(fake, "cat ${NPM_CONFIG_USERCONFIG-/dev/null}")
}

fn push(fake: &FakeDocker) -> Xtask {
    let call = fake.push(&["--check=off", "--records=records"]).env("HOME", fake.file("home"));
    // As unset.
    call.env("XDG_CONFIG_HOME", "")
}

#[test]
fn the_first_file_that_names_indexes_counts() {
    let fake = keeping("host-first");
    fake.write("home/.config/pip/pip.conf", "[global]\ntimeout = 3\n");
    fake.write("home/.pip/pip.conf", "[global]\nindex-url = https://a/simple\n");
    push(&fake).succeed();
    assert_eq!(pip_index(&fake), "https://a/simple");
    for named in ["/dev/null".into(), fake.file("home/.config/pip/pip.conf")] {
        push(&fake).env("PIP_CONFIG_FILE", named).succeed();
        assert_eq!(indexes(&fake), "", "the file that is named is the only one");
    }
    fake.write("home/.config/pip/pip.conf", "[global]\nindex-url = https://b/simple\n");
    push(&fake).succeed();
    assert_eq!(pip_index(&fake), "https://b/simple");
}

#[test]
fn places_that_variables_name_count_too() {
    let fake = keeping("host-places");
    fake.write("home/.pip/pip.conf", "[global]\nindex-url = https://user/simple\n");
    fake.write("venv/pip.conf", "[global]\nindex-url = https://venv/simple\n");
    fake.write("globalconfig", "registry=https://global/\n");
    fake.write("prefix/etc/npmrc", "registry=https://prefix/\nstrict-ssl=false\n");
    let call = || push(&fake).env("npm_config_prefix", fake.file("prefix"));
    call().env("VIRTUAL_ENV", fake.file("venv")).succeed();
    assert_eq!(pip_index(&fake), "https://venv/simple");
    assert_eq!(npmrc(&fake), "registry=https://prefix/\nstrict-ssl=false\n");
    call().env("NPM_CONFIG_GLOBALCONFIG", fake.file("globalconfig")).succeed();
    assert!(npmrc(&fake).ends_with("registry=https://global/\n"), "the last one counts");
}

/// Some steps use pip, and others uv.
#[test]
fn the_main_index_of_pip_is_uvs_too_and_the_other_way_round() {
    let fake = keeping("host-alike");
    let settings = |variables: &[(&str, &str)]| {
        let call = variables.iter().fold(push(&fake), |call, (name, value)| call.env(name, value));
        call.succeed();
        indexes(&fake)
    };
    let both = "PIP_INDEX_URL=https://a/; PIP_TRUSTED_HOST=a b; UV_DEFAULT_INDEX=https://a/; \
                UV_INSECURE_HOST=a b";
    assert_eq!(settings(&[("PIP_INDEX_URL", "https://a/"), ("PIP_TRUSTED_HOST", "a b")]), both);
    let loopback = ("PIP_INDEX_URL", "http://127.0.0.1/");
    assert_eq!(
        settings(&[("UV_DEFAULT_INDEX", "corp=https://a/"), loopback]),
        "PIP_INDEX_URL=https://a/; UV_DEFAULT_INDEX=corp=https://a/"
    );
    let given = [("PIP_INDEX_URL", "https://a/"), ("UV_INDEX_URL", "https://b/")];
    assert_eq!(settings(&given), "PIP_INDEX_URL=https://a/; UV_INDEX_URL=https://b/");
    let pip = "[global]\nindex_url: https://a/\ntrusted-host =\n  a\n  b\n";
    fake.write("home/.pip/pip.conf", pip);
    assert_eq!(settings(&[]), both);
    fs::remove_file(fake.file("home/.pip/pip.conf")).unwrap();
    let uv = "allow-insecure-host = [\"a\", 'b']\n[[index]]\nurl = \"https://c\"\n\
              [[index]]\nname = \"b\"\nurl = \"https://b\" # ours\ndefault=true\n";
    fake.write("home/.config/uv/uv.toml", uv);
    assert_eq!(settings(&[]), "PIP_INDEX_URL=https://b; PIP_TRUSTED_HOST=a b");
    let inline = "index = [{ url = \"https://c\" }, { name = \"my-b\", url = \"https://b/?d\", default = true }]";
    fake.write("home/.config/uv/uv.toml", inline);
    assert_eq!(settings(&[]), "PIP_INDEX_URL=https://b/?d");
    // What uv reads from variables of the index's name is in the address that pip gets.
    let login = [("UV_INDEX_MY_B_USERNAME", "me"), ("UV_INDEX_MY_B_PASSWORD", "p@ss/")];
    let settings = settings(&login);
    assert!(settings.starts_with("PIP_INDEX_URL=https://me:p%40ss%2F@b/?d; "), "{settings}");
}

/// As pip, uv and npm do it themselves.
#[test]
fn the_configurations_of_one_program_are_joined() {
    let fake = keeping("host-joined");
    fake.write("home/.config/pip/pip.conf", "[global]\ntrusted-host = pip.corp localhost\n");
    let legacy = "[install]\nuser = no\n[global]\nIndex_Url = https://a/simple\ntrusted-host = b\n";
    fake.write("home/.pip/pip.conf", legacy);
    push(&fake).succeed();
    let expected = "PIP_INDEX_URL=https://a/simple; PIP_TRUSTED_HOST=pip.corp localhost; ";
    assert!(indexes(&fake).starts_with(expected), "{}", indexes(&fake));
}

#[test]
fn of_a_configuration_only_indexes_reach_steps() {
    let fake = keeping("host-keys");
    fake.write(
        "home/.config/pip/pip.conf",
        "[global]\ntarget = /nowhere\ncert = /nowhere\nno-index = yes\n",
    );
    let uv = "cache-dir = '/nowhere'\nindex-url = \"https://a/é\"\n[pip]\nsystem = true\n\
              [[index]]\nname = \"b\"\nurl = 'https://b\\'\nignore-error-codes = [401, 403]\n";
    fake.write("home/.config/uv/uv.toml", uv);
    fake.write(
        "home/.npmrc",
        "prefix=/nowhere\ncafile = /nowhere\n @a:registry = https://a/\nomit[]=dev\n",
    );
    push(&fake).succeed();
    assert_eq!(indexes(&fake), "PIP_INDEX_URL=https://a/é");
    let expected = "index-url = \"https://a/é\"\nindex = [{name = \"b\", url = \"https://b\\\\\", \
                    ignore-error-codes = [401, 403]}]\n";
    assert_eq!(in_step(&fake, "cat $UV_CONFIG_FILE; env | grep nowhere || :"), expected);
    assert_eq!(npmrc(&fake), " @a:registry = https://a/\n");
}

#[test]
fn of_a_configuration_only_what_is_on_loopback_is_left_out() {
    let fake = keeping("host-loopback");
    fake.write("home/.npmrc", "registry=https://npm.corp/\n@me:registry=http://localhost:4873/\n");
    let uv = "[[index]]\nurl = \"http://127.0.0.1:3141\"\ndefault = true\n\
              [[index]]\nurl = \"https://pip.corp/simple\" # not http://localhost:3141\n";
    fake.write("home/.config/uv/uv.toml", uv);
    let trusted = ("PIP_TRUSTED_HOST", "pip.corp localhost\r");
    let ended = push(&fake).env(trusted.0, trusted.1).succeed();
    assert_eq!(npmrc(&fake), "registry=https://npm.corp/\n");
    let kept = "index = [{url = \"https://pip.corp/simple\"}]\n";
    assert_eq!(in_step(&fake, "cat $UV_CONFIG_FILE"), kept);
    assert_eq!(in_step(&fake, "echo $PIP_TRUSTED_HOST"), "pip.corp localhost\n");
    let home = fake.file("home").display().to_string();
    let left = format!(": line 2 of {home}/.config/uv/uv.toml, line 2 of {home}/.npmrc\n");
    assert!(ended.stderr.contains(&left), "{}", ended.stderr);
}

#[test]
fn a_token_that_npmrc_takes_from_a_variable_reaches_steps_and_no_log() {
    let fake = keeping("host-npmrc");
    let text = "registry=https://npm.corp/\n//npm.corp/:_authToken=${CORP_NPM_TOKEN}\n";
    fake.write("home/.npmrc", text);
    let ended = push(&fake).env("CORP_NPM_TOKEN", r"s3cret;#\").succeed();
    fake.write("printed", &format!("{ended:?}"));
    let grep = Command::new("grep").args(["-rl", "s3cret"]).arg(&fake.0.0).output().unwrap();
    let files = String::from_utf8(grep.stdout).unwrap();
    assert_eq!(files.trim(), fake.file("secrets/npmrc").display().to_string());
    let expected = "registry=https://npm.corp/\n//npm.corp/:_authToken=s3cret\\;\\#\\\\\n";
    assert_eq!(npmrc(&fake), expected);
}

#[test]
fn a_proxy_that_steps_cannot_use_is_named_and_not_handed_on() {
    let fake = FakeDocker::new("host-proxies");
    let call = push(&fake).env("HTTPS_PROXY", "SOCKS5://p:1").env("http_proxy", "http://0:3128");
    let ended = call.env("HTTP_PROXY", "http://proxy:3128").succeed();
    assert!(ended.stderr.contains(": http_proxy, HTTPS_PROXY\n"), "{}", ended.stderr);
    let bakes = fake.bakes();
    let arguments = &bakes[0].target("debian")["args"];
    assert_eq!(arguments["HTTP_PROXY"], "http://proxy:3128");
    assert!(arguments.get("HTTPS_PROXY").is_none(), "{arguments:#}");
}

/// buildx copies them into each build that has no argument of the name.
#[test]
fn a_proxy_of_dockers_own_that_steps_cannot_use_is_named_and_kept_out() {
    let fake = FakeDocker::new("host-docker-proxies");
    let other = r#"{"httpProxy": "socks5://p", "httpsProxy": "http://p:1"}"#;
    let default = r#"{"httpProxy": "http://127.0.0.1:3128", "httpsProxy": "http://[::1]:1"}"#;
    let config = format!(r#"{{"proxies": {{"default": {default}, "tcp://d:1": {other}}}}}"#);
    fake.write("home/.docker/config.json", &config);
    let args = |call: Xtask| {
        let said = call.succeed().stderr;
        let args = fake.bakes().last().unwrap().target("debian")["args"].clone();
        let proxies = ["http_proxy", "HTTP_PROXY", "HTTPS_PROXY"];
        (proxies.map(|name| args[name].as_str().map(str::to_owned)), said)
    };
    let expect = |[lower, upper, https]: [Option<&str>; 3]| {
        [lower, upper, https].map(|value| value.map(str::to_owned))
    };
    let path = fake.file("home/.docker/config.json").display().to_string();
    let (given, said) = args(push(&fake));
    assert_eq!(given, expect([None, Some(""), Some("")]));
    let named = format!(": httpProxy in {path}, httpsProxy in {path}\n");
    assert!(said.contains(&named), "{said}");
    // Old ones look for the same case only, and BuildKit takes either.
    let (given, said) = args(push(&fake).env("http_proxy", "http://q"));
    assert_eq!(given, expect([Some("http://q"), Some("http://q"), Some("")]));
    assert!(said.contains(&format!(": httpsProxy in {path}\n")), "{said}");
    let (given, said) = args(push(&fake).env("DOCKER_HOST", "tcp://d:1"));
    assert_eq!(given, expect([None, Some(""), None]));
    assert!(said.contains(&format!(": httpProxy in {path}\n")), "{said}");
}

#[test]
fn npms_variables_count_in_any_case_and_uv_may_be_told_to_read_no_file() {
    let fake = keeping("host-cases");
    fake.write("npmrc", "registry=https://npm.corp/\n");
    fake.write("home/.config/uv/uv.toml", "index-url = \"https://a/simple\"\n");
    let call = || push(&fake).env("npm_config_userconfig", fake.file("npmrc"));
    call().env("npm_config_strict_ssl", "false").succeed();
    assert_eq!(npmrc(&fake), "registry=https://npm.corp/\n");
    assert_eq!(in_step(&fake, "echo $npm_config_strict_ssl"), "false\n");
    for (no_config, index) in [("", "https://a/simple"), ("false", "https://a/simple"), ("1", "")] {
        call().env("UV_NO_CONFIG", no_config).succeed();
        assert_eq!(pip_index(&fake), index, "UV_NO_CONFIG={no_config}");
    }
}

#[test]
fn logins_in_netrc_are_handed_on_for_the_hosts_of_mirrors_alone() {
    let fake = keeping("host-netrc");
    let netrc = "# mine\nmachine pip.co login me password 0ther\nmachine pip.corp # it's\n login me\n \
                 password it's\n\ndefault login anonymous password x\n";
    fake.write("home/.netrc", netrc);
    push(&fake).succeed();
    assert_eq!(in_step(&fake, "echo ${NETRC-none}"), "none\n");
    fake.write("home/.config/pip/pip.conf", "[global]\nindex-url = https://pip.corp/simple\n");
    push(&fake).succeed();
    assert_eq!(in_step(&fake, "cat $NETRC"), "machine pip.corp\nlogin me\npassword it's\n");
}

#[test]
fn a_definition_that_is_printed_says_that_it_lacks_the_mirrors() {
    let print = || Xtask::new(&["image", "--print", "--variant=debian"]);
    let ended = print().env("PIP_INDEX_URL", "https://user:s3cret@pip.corp/simple").succeed();
    assert!(ended.stderr.contains("without the settings of your mirrors"), "{}", ended.stderr);
    assert!(!format!("{ended:?}").contains("s3cret"));
    assert_eq!(print().succeed().stderr, "");
}
