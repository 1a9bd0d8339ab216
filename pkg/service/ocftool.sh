#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Stands in for those commands of Pacemaker that resource agents call. There is no Pacemaker, whose
# decisions they would serve: who is promoted is decided by who owns the identity.
case "${0##*/}: $* " in
crm_node:*" -n "*) echo "$OCF_RESKEY_CRM_meta_on_node" ;;
*" -G "* | *" --query "*) exit 6 ;;                                    # CRM_EX_NOSUCH: no such score or attribute
crm_master:* | crm_attribute:*" -p "* | crm_attribute:*" --promotion "*) ;; # a score of who should be promoted
crm_resource:*" --locate "*) exit 6 ;;                                 # where it is promoted is not known here
*)
	echo "${0##*/} $*: xdpha keeps no attributes of a cluster, so an agent that needs them cannot be used" >&2
	exit 1
	;;
esac
