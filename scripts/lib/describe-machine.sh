# shellcheck shell=bash
# Sourced by `make test`: determines what this machine cannot do, and reports at once what is skipped because of it.
#   as_root      prefix of a command that needs root: nothing, or sudo
#   left_out     why the parts that need root are skipped; empty if they are not
#   of_root      the tests that need root: those that boot instances or inspect a salebell process, which hides its memory;
#                where a user may not mount (Ubuntu, a chroot, most containers), those that do
# With SALEBELL_TEST_ALL=yes nothing is skipped, and a machine that lacks something fails here.

# as_root_can COMMAND…: whether the command succeeds as root.
as_root_can() {
  "${as_root[@]}" "$@" >/dev/null 2>&1
}

as_root=() left_out=
if [ "$(id -u)" -ne 0 ]; then
  as_root=(sudo)
  if ! command -v sudo >/dev/null; then
    left_out="you are not root, and there is no sudo"
  elif ! sudo --non-interactive true 2>/dev/null && ! { [ -t 0 ] && sudo --validate; }; then
    left_out="you are not root, and sudo does not let you become it"
  fi
  [ -z "$left_out" ] || as_root=()
fi
if [ -z "$left_out" ]; then
  lacking=()
  # shellcheck disable=SC2016 # the shell of the namespace expands it
  if ! as_root_can unshare --mount --propagation private true; then
    lacking+=("mount namespaces")
  elif command -v mount >/dev/null && # a bare root file system may lack it; install-packages.sh brings it
    ! as_root_can unshare --mount --propagation private sh -c 'mount -t tmpfs tmpfs /mnt && mkdir /mnt/a /mnt/b /mnt/c &&
    mount -t overlay overlay -o lowerdir=/mnt/a,upperdir=/mnt/b,workdir=/mnt/c /mnt/a'; then
    lacking+=("overlays")
  fi
  as_root_can unshare --net true || lacking+=("network namespaces")
  # The instance's units have PrivateUsers=. The kernel refuses it to everyone in a chroot.
  as_root_can unshare --user true || lacking+=("user namespaces")
  # shellcheck disable=SC2016 # the same
  as_root_can bash -c '. scripts/lib/control-groups.sh && group=$(control_groups)/salebell-look-$$ && mkdir "$group" && rmdir "$group"' ||
    lacking+=("control groups of version 2 that can be written")
  if [ ${#lacking[@]} -gt 0 ]; then
    left_out="root has no $(printf '%s, no ' "${lacking[@]}" | sed 's/, no $//') here"
  fi
fi

of_root="instance::appliance:: instance::efs:: instance::boot::the_services_of pricing::feeds::memory_stays_flat aws::renewal::no_request_fails_while_the_database"
if [ "$(id -u)" -ne 0 ] && ! unshare --map-root-user --mount true 2>/dev/null; then
  of_root+=" aws::cloudwatch:: files::faults:: files::mounts:: instance::disk:: process::logging:: process::secrets:: project::machine::mounts_in_an_image"
fi

where=
if ischroot 2>/dev/null; then
  where=", in a chroot"
fi
if container=$(systemd-detect-virt --container 2>/dev/null); then
  where+=", in a container ($container)"
elif [ -e /.dockerenv ] || [ -e /run/.containerenv ]; then
  where+=", in a container"
fi
if [ "$(id -u)" -eq 0 ]; then
  echo "==> this machine: root$where"
elif [ -z "$left_out" ]; then
  echo "==> this machine: a user with sudo$where; what is root's runs with sudo, which may ask for your password again"
else
  echo "==> this machine: a user$where"
fi
if [ -n "$left_out" ]; then
  if [ "${SALEBELL_TEST_ALL:-}" = yes ]; then
    echo "everything is to be tested here, and cannot be: $left_out" >&2
    exit 1
  fi
  cat <<END
    $left_out.
    Left out are therefore: the bake of the machine image and what looks at it, the tests that boot instances
    (appliance::), those of the packages, those in a bare Debian 13, and the rehearsal. They need root, with the right to make
    namespaces and to mount: a container has to be given that. A chroot cannot have it, a root that was entered with
    pivot_root can, with /proc, /sys and control groups.
END
  [ "$(id -u)" -eq 0 ] || echo "    All tests that are root's: $of_root"
fi
