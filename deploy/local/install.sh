#!/usr/bin/env bash
# install.sh [PROGRAM...]
#
# Makes sure that the programs are installed that the tests and the cluster run:
# redis-server, haproxy, chromium and cc (the race detector needs a C compiler).
# If they are, it prints nothing. On Debian and Ubuntu it installs those that are
# missing, with sudo if it is not run by root, and leaves no service running. On
# other systems it says what is missing and how to get it.
set -euo pipefail

PATH=$PATH:/usr/sbin:/usr/local/sbin

# have PROGRAM succeeds if the program can be run under any of its names.
have() {
	local name names=$1
	if [[ $1 == chromium ]]; then
		names="headless-shell headless_shell chromium chromium-browser google-chrome google-chrome-stable"
		[[ -d "/Applications/Google Chrome.app" || -d "/Applications/Chromium.app" ]] && return
	fi
	for name in $names; do
		command -v "$name" >/dev/null && return
	done
	return 1
}

# packages PROGRAM prints the Debian or Ubuntu packages that contain it.
packages() {
	case $1 in
	cc) echo gcc libc6-dev ;;
	chromium) # its package has another name on Ubuntu
		if apt-cache show chromium >/dev/null 2>&1; then echo chromium; else echo chromium-browser; fi
		;;
	*) echo "$1" ;;
	esac
}

as_root() {
	if ((EUID == 0)); then
		"$@"
	elif ! command -v sudo >/dev/null; then
		echo "install: missing: ${missing[*]}; run as root: $*" >&2
		exit 1
	elif [[ -t 0 ]]; then
		sudo "$@"
	else
		sudo -n "$@"
	fi
}

# install_debs PACKAGE... installs packages without starting the services in them.
install_debs() {
	# Debian runs this file before a package starts a service; 101 forbids the start.
	local policy=/usr/sbin/policy-rc.d
	if [[ ! -e $policy ]]; then
		trap "as_root rm -f $policy" EXIT
		as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
	fi
	as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get install -y -qq --no-install-recommends \
		-o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
	# The services must not start at the next boot either.
	local service
	if [[ -d /run/systemd/system ]]; then
		for service in redis-server haproxy; do
			[[ " $* " != *" $service "* ]] || as_root systemctl disable --quiet --now "$service" || true
		done
	fi
}

wanted=("$@")
((${#wanted[@]})) || wanted=(redis-server haproxy chromium cc)
missing=()
for program in "${wanted[@]}"; do
	have "$program" || missing+=("$program")
done
((${#missing[@]})) || exit 0

if ! command -v apt-get >/dev/null; then
	echo "install: missing: ${missing[*]}" >&2
	case $(uname -s) in
	Darwin) echo "install: with Homebrew: brew install redis haproxy; brew install --cask chromium; xcode-select --install (cc)" >&2 ;;
	*) echo "install: get redis (7 or newer), haproxy (2.6 or newer), chromium and gcc from your system's packages" >&2 ;;
	esac
	exit 1
fi

echo "install: ${missing[*]}" >&2
as_root apt-get update -qq -o DPkg::Lock::Timeout=300 >&2
debs=()
for program in "${missing[@]}"; do
	read -ra found <<<"$(packages "$program")"
	debs+=("${found[@]}")
done
install_debs "${debs[@]}"

for program in "${missing[@]}"; do
	have "$program" || { echo "install: $program is still missing after installing ${debs[*]}" >&2; exit 1; }
done
