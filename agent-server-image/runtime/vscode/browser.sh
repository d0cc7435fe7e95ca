#!/openhands/node/bin/node
process.argv.splice(2, 0, "--openExternal");
await import("../remote-cli/code");
