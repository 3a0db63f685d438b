#!/bin/sh
# join-bridge.sh INTERFACE: run by qemu once it has made the network interface of a virtual machine (boot-vm.sh).
exec ip link set "$1" master instances up
