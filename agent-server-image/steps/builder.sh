# Installs binutils, static programs for the image, and Python where there is none.
# shellcheck shell=sh
# shellcheck source=apt.sh
. /run/apt.sh
set -- binutils busybox-static tini
command -v python3 >/dev/null || set -- "$@" python3 python3-gdbm python3-venv
install_packages "$@"
# Libraries of an installed Python enter the image as well.
update_installed
