import { app } from "../../scripts/app.js"

// Without Nodes 2.0, an animation in a node only gets the height that the node has to spare: none, in a new one.
const LEAST = 256, ROOM = 400

app.registerExtension({
    name: "TuneAVideo.RoomForPreviews",
    nodeCreated(node) {
        if (node.comfyClass !== "OneShotTune") return
        const before = node.onExecuted
        node.onExecuted = function (output) {
            before?.call(this, output)
            const [width, height] = this.size, needed = this.computeSize()[1]
            if (output?.animated && !LiteGraph.vueNodesMode && height - needed < LEAST) {
                this.setSize([width, needed + ROOM])
            }
        }
    },
})
