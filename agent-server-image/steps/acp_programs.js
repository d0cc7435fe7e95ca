// Prints the name and path of each program that the packages in /run/tmp/packages have.
const fs = require("fs");
const read = (path) => JSON.parse(fs.readFileSync(path, "utf8"));
const { packages } = read("node_modules/.package-lock.json");

// For npm it is no error if what is optional can't be fetched, and programs for this machine are.
const locked = read("package-lock.json").packages;
const fits = (wanted, own) => !wanted || wanted.includes(own);
for (const [path, { optionalDependencies }] of Object.entries(packages)) {
    for (const name of Object.keys(optionalDependencies ?? {})) {
        const wanted = locked[`node_modules/${name}`];
        const isOurs = wanted?.os && fits(wanted.os, "linux") && fits(wanted.cpu, process.arch);
        if (isOurs && fits(wanted.libc, "glibc") && !fs.existsSync(`node_modules/${name}`)) {
            throw new Error(`${name}, which ${path} needs, was not fetched`);
        }
    }
}

for (const name of fs.readFileSync("/run/tmp/packages", "utf8").split("\n").filter(Boolean)) {
    // A package lies deeper where providers need different versions of it.
    const folder = Object.keys(packages).find((path) => path.endsWith(`node_modules/${name}`));
    const { bin } = read(`${folder}/package.json`);
    const programs = typeof bin === "string" ? { [name.split("/").pop()]: bin } : bin;
    for (const [program, path] of Object.entries(programs ?? {})) {
        console.log(program, `${folder}/${path}`);
    }
}
