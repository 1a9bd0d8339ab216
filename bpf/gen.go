// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate go tool bpf2go -cc clang-19 -cflags "-O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu" -target bpfel -type lab_port -type lab_seen -type lab_record Lab lab.bpf.c
//go:generate go tool bpf2go -cc clang-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu" -target bpfel -type xd_abi -type xd_config -type xd_key -type xd_control -type xd_state -type xd_path_state -type xd_peer -type xd_timeline -type xd_event -type xd_claim -type xd_event_kind -type xd_pace -type xd_reason -type xd_verdict Xdpha xdpha.bpf.c
