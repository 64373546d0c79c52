package job

import "fmt"

// Hooks let a test strike at exact points of a job's life; see jobtest. The zero value does nothing.
type Hooks struct {
	// At is called at each point. When it returns an error the runner dies there as if its process had been killed: it
	// writes nothing any more, frees nothing, and Run returns the error.
	At func(Point) error
	// Twice does each step, and each undo, that succeeded a second time before it is written down.
	Twice bool
}

// Point is a point of a job's life.
type Point struct {
	Job   string
	Where Where
	// Step is the index of the job's current step, -1 before there is a plan.
	Step int
}

func (p Point) String() string { return fmt.Sprintf("%s, step %d", p.Where, p.Step) }

// Where says what is about to happen or has just happened.
type Where string

// The places where a server can die. Between any two of them it writes at most once.
const (
	BeforeClaim      Where = "before claim"
	AfterClaim       Where = "after claim"
	BeforeDo         Where = "before do"
	AfterDo          Where = "after do"
	BeforeUndo       Where = "before undo"
	AfterUndo        Where = "after undo"
	BeforeWrite      Where = "before a write of the step's own" // Context.Update, Context.Save
	AfterWrite       Where = "after a write of the step's own"
	BeforeCheckpoint Where = "before checkpoint"
	AfterCheckpoint  Where = "after checkpoint"
)
