// Command cri speaks to a container runtime as a kubelet does, one call at a time:
//
//	cri SOCKET ready            once the runtime answers and has a network; waits for both
//	cri SOCKET run NAME         RunPodSandbox; prints the sandbox
//	cri SOCKET addresses ID     PodSandboxStatus; prints the sandbox's addresses, a line each
//	cri SOCKET stop ID          StopPodSandbox
//	cri SOCKET remove ID        RemovePodSandbox
//	cri SOCKET list             ListPodSandbox; prints sandbox, state and name
//	cri SOCKET time NAME UID    RunPodSandbox, StopPodSandbox, RemovePodSandbox; prints the first two's time in microseconds
//	cri SOCKET time-node NAME UID   the same on the node's own network
//
// It does not know which runtime it speaks to, nor anything of networks.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a kubelet waits for a call.
const callLimit = 2 * time.Minute

// How long a runtime may take from its start until it has a network.
const readyLimit = 60 * time.Second

// Between two questions whether it has one: the runtime tells nobody by itself.
const readyPause = 50 * time.Millisecond

// Where a pod's processes are accounted for: whoever starts this knows what to remove. CGROUP in the environment is another place.
const cgroupParent = "/plexus-clients"

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: cri SOCKET ready|run|addresses|stop|remove|list|time|time-node [ARGUMENT [UID]]")
		os.Exit(2)
	}
	argument, uid := "", ""
	if len(os.Args) > 3 {
		argument, uid = os.Args[3], os.Args[3]
	}
	if len(os.Args) > 4 {
		uid = os.Args[4]
	}
	if err := call(os.Args[1], os.Args[2], argument, uid); err != nil {
		fmt.Fprintf(os.Stderr, "cri %s %s: %v\n", os.Args[2], argument, err)
		os.Exit(1)
	}
}

func call(socket, act, argument, uid string) error {
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	runtime := cri.NewRuntimeServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()

	switch act {
	case "ready":
		return ready(ctx, runtime)
	case "run":
		reply, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod(argument, uid, cri.NamespaceMode_POD)})
		if err != nil {
			return err
		}
		fmt.Println(reply.PodSandboxId)
	case "addresses":
		reply, err := runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: argument})
		if err != nil {
			return err
		}
		network := reply.GetStatus().GetNetwork()
		fmt.Println(network.GetIp())
		for _, more := range network.GetAdditionalIps() {
			fmt.Println(more.Ip)
		}
	case "stop":
		_, err = runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: argument})
	case "remove":
		_, err = runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: argument})
	case "list":
		reply, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
		if err != nil {
			return err
		}
		for _, one := range reply.Items {
			fmt.Println(one.Id, one.State, one.GetMetadata().GetName())
		}
	case "time":
		return measure(ctx, runtime, pod(argument, uid, cri.NamespaceMode_POD))
	case "time-node":
		return measure(ctx, runtime, pod(argument, uid, cri.NamespaceMode_NODE))
	default:
		return fmt.Errorf("no such call")
	}
	return err
}

func pod(name, uid string, network cri.NamespaceMode) *cri.PodSandboxConfig {
	parent := cgroupParent
	if given := os.Getenv("CGROUP"); given != "" {
		parent = "/" + given
	}
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: uid},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    parent,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: network}},
		},
		LogDirectory: os.TempDir(),
	}
}

func measure(ctx context.Context, runtime cri.RuntimeServiceClient, pod *cri.PodSandboxConfig) error {
	begin := time.Now()
	reply, err := runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod})
	if err != nil {
		return err
	}
	run := time.Since(begin)
	begin = time.Now()
	if _, err = runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: reply.PodSandboxId}); err != nil {
		return err
	}
	stop := time.Since(begin)
	if _, err = runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: reply.PodSandboxId}); err != nil {
		return err
	}
	fmt.Println(run.Microseconds(), stop.Microseconds())
	return nil
}

func ready(ctx context.Context, runtime cri.RuntimeServiceClient) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for {
		reply, err := runtime.Status(ctx, &cri.StatusRequest{})
		what := fmt.Sprint(err)
		if err == nil {
			what = ""
			for _, condition := range reply.GetStatus().GetConditions() {
				if !condition.Status {
					what += condition.Type + ": " + condition.Message + "; "
				}
			}
			if what == "" {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %s", what)
		case <-time.After(readyPause):
		}
	}
}
