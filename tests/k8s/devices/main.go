// Command devices is a device plugin of a kubelet with devices that do not exist:
//
//	devices RESOURCE DEVICE...
//
// It registers, serves until it is killed, and prints the devices of each allocation as a line. It sets nothing up for a container.
//
//	devices listed
//
// prints what the kubelet says of devices at its pod-resources socket, a line each: "RESOURCE DEVICE" for what it can give, with
// " NAMESPACE/POD" where a pod has it.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	resources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// What the kubelet may take for an answer.
const registerLimit = 30 * time.Second

// Where the kubelet tells of its devices.
const podResources = "unix:///var/lib/kubelet/pod-resources/kubelet.sock"

type plugin struct {
	api.UnimplementedDevicePluginServer
	devices []*api.Device
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "listed" {
		if err := listed(); err != nil {
			fmt.Fprintf(os.Stderr, "devices: %v\n", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: devices RESOURCE DEVICE... | devices listed")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "devices: %v\n", err)
		os.Exit(1)
	}
}

func serve(resource string, names []string) error {
	var own plugin
	for _, name := range names {
		own.devices = append(own.devices, &api.Device{ID: name, Health: api.Healthy})
	}
	endpoint := strings.ReplaceAll(resource, "/", "_") + ".sock"
	path := filepath.Join(api.DevicePluginPath, endpoint)
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, &own)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()

	connection, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), registerLimit)
	defer cancel()
	request := &api.RegisterRequest{Version: api.Version, Endpoint: endpoint, ResourceName: resource}
	if _, err := api.NewRegistrationClient(connection).Register(ctx, request); err != nil {
		return err
	}
	return <-ended
}

func (own *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (own *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	if err := stream.Send(&api.ListAndWatchResponse{Devices: own.devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (own *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	reply := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		fmt.Println(strings.Join(container.DevicesIds, " "))
		reply.ContainerResponses = append(reply.ContainerResponses, &api.ContainerAllocateResponse{})
	}
	return reply, nil
}

func listed() error {
	connection, err := grpc.NewClient(podResources, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), registerLimit)
	defer cancel()
	client := resources.NewPodResourcesListerClient(connection)
	all, err := client.GetAllocatableResources(ctx, &resources.AllocatableResourcesRequest{})
	if err != nil {
		return err
	}
	given, err := client.List(ctx, &resources.ListPodResourcesRequest{})
	if err != nil {
		return err
	}
	holders := map[string]string{}
	for _, pod := range given.PodResources {
		for _, container := range pod.Containers {
			for _, devices := range container.Devices {
				for _, id := range devices.DeviceIds {
					holders[devices.ResourceName+" "+id] = " " + pod.Namespace + "/" + pod.Name
				}
			}
		}
	}
	for _, devices := range all.Devices {
		for _, id := range devices.DeviceIds {
			name := devices.ResourceName + " " + id
			fmt.Println(name + holders[name])
		}
	}
	return nil
}
